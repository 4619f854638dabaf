"""Makes our models known to transformers, and our operator to exported programs that are read, whichever is imported
first, without importing any of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class Watch:
    """Waits until a module of a package of others has been imported, then imports one of ours, and goes away.

    Ours imports more of theirs, which may fail inside one of their own imports: so that is done when the outermost of
    them has ended.

    Args:
        package: of others.
        awaited: the module there without which ours is not needed.
        ours: what says to them what they have to know.
    """

    def __init__(self, package: str, awaited: str, ours: str):
        self.package, self.awaited, self.ours = package, awaited, ours
        self.nesting = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Called by Python for every module that is imported for the first time."""
        if name != self.package and not name.startswith(f"{self.package}."):
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
            if self.nesting.depth == 0 and self.awaited in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                import_module(self.ours)

        spec.loader.exec_module = counted  # type: ignore[method-assign]
        return spec


WATCHES = (
    # Where transformers look up what a config.json describes.
    Watch("transformers", "transformers.models.auto.configuration_auto", "recurra.interop.transformers"),
    # What reads a program that torch.export has saved.
    Watch("torch._export.serde", "torch._export.serde.serialize", "recurra.engines.kernels.operator"),
)


def watch() -> None:
    """Make ours known now where theirs is there, else when it comes."""
    for one in WATCHES:
        if one.awaited in sys.modules:
            import_module(one.ours)
        elif one not in sys.meta_path:
            sys.meta_path.insert(0, one)
