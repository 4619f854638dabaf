"""Makes our models known to transformers, whichever of the two is imported first, without importing it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

AUTO = "transformers.models.auto.configuration_auto"
"""Where transformers look up what a config.json describes."""


class Watch:
    """Waits until transformers have imported `AUTO`, then has our models registered, and goes away.

    Registering imports more of transformers, which may fail inside one of its own imports: so it is done when the
    outermost of them has ended.
    """

    def __init__(self) -> None:
        self.nesting = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Called by Python for every module that is imported for the first time."""
        if name.partition(".")[0] != "transformers":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def counted(module: ModuleType) -> None:
            self.nesting.depth = getattr(self.nesting, "depth", 0) + 1
            try:
                execute(module)
            finally:
                self.nesting.depth -= 1
            if self.nesting.depth == 0 and AUTO in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        spec.loader.exec_module = counted  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Make `AutoConfig`, `AutoModelForCausalLM` and `AutoTokenizer` know our folders, which that module does."""
    import_module("recurra.interop.transformers")


def watch() -> None:
    """Register now if transformers are there, else when they come."""
    if AUTO in sys.modules:
        register()
    elif not any(isinstance(finder, Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, Watch())
