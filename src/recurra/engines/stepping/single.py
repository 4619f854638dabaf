"""One time step of something large, a layer or a block of a model with all its matrices, as one kernel: what streaming
runs on the CPU.

Anything that can be traced will do: a function of some states and one vector, with weights, to new states and one
vector. Weights are read where they lie and as they are stored, once per time step.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack

from recurra.compiler.frontend.trace import Untraceable
from recurra.compiler.targets import host
from recurra.engines import gate
from recurra.engines.kernels import threads
from recurra.engines.reading import Reading, still, unchanged
from recurra.engines.stepping.chain import Chain, SingleStep
from recurra.engines.stepping.modules import with_tensors
from recurra.engines.stepping.recipe import Recipe
from recurra.engines.traced import SCALAR
from recurra.engines.unseen import unseen
from recurra.errors import InputError
from recurra.problem import compute_dtype

_recipes: dict[Hashable, Recipe | None] = {}
_lock = threading.RLock()
MOST_RECIPES = 512
"""Kinds of modules whose kernels are remembered."""
MOST_ROWS = 128
"""Sequences that one kernel takes a time step of."""
PATIENCE = 8
"""Traces of one module from which on it is not traced at every change."""


def advance(
    whole: nn.Module, modules: Callable[[], Sequence[nn.Module]], x: Tensor, states: Sequence[Mapping[str, Tensor]]
) -> tuple[Tensor, list[dict[str, Tensor]]] | None:
    """What modules give, each called with what the one before gives and its state, without gradient; or None where
    they have to be called themselves.

    Args:
        whole: what the modules are parts of; as long as nothing in it changes, neither do they.
        modules: gives them; each is called as layers are: x [1, 1, D] and state to y [1, 1, D'] and the new state.
        x: [1, D], of the type of all modules.
        states: of one sequence, tensors [1, ...], as each module returned its own.

    Returns:
        the last y [1, D'] and all new states.

    Raises:
        InputError: a module's own, if x or its state do not fit it.
    """
    if x.dim() != 2 or not undisturbed():
        return None
    return _advance(whole, modules, x, states)


def undisturbed() -> bool:
    """Whether operations do just what they say: nothing records, transforms or compiles them."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
        or (torch._C._len_torch_function_stack() and not _only_a_default_device())
    )


def _only_a_default_device() -> bool:
    own = getattr(sys.modules.get("torch.utils._device"), "DeviceContext", ())
    return all(isinstance(mode, own) for mode in _get_current_function_mode_stack())


@unseen
def _advance(
    whole: nn.Module, modules: Callable[[], Sequence[nn.Module]], x: Tensor, states: Sequence[Mapping[str, Tensor]]
) -> tuple[Tensor, list[dict[str, Tensor]]] | None:
    plan = step_plan(whole, modules, x, states)
    if plan is None or plan.chain is None:
        return None
    y, after = plan.chain.run(plan.chain.input(x), states)
    return (y if y.dtype is x.dtype else y.to(x.dtype)), after


def step_plan(
    whole: nn.Module, modules: Callable[[], Sequence[nn.Module]], x: Tensor, states: Sequence[Mapping[str, Tensor]]
) -> StepPlan | None:
    """How to `advance`, or None if such arguments are never taken."""
    if not all(isinstance(t, Tensor) for state in states for t in state.values()):
        return None
    facts = _facts(x, states)
    found = vars(whole).get("_step_plan")
    if found is None or found.whole() is not whole:
        found = vars(whole)["_step_plan"] = Found(weakref.ref(whole))
    known = found.plan
    if known is None or known.facts != facts or not known.holds():
        if not _fit(facts) or found.rests():
            return None
        with _lock:
            known = found.plan = StepPlan(whole, modules(), x, states)
            found.traced += known.traced
    return known


class Found:
    """The plan of a module, which the module itself keeps: it goes when the module goes. Copies begin without.

    A module that is another one at every step would be traced at every step: it is called itself, ever more often.
    """

    def __init__(self, whole: Callable[[], nn.Module | None] = lambda: None):
        self.whole = whole
        self.plan: StepPlan | None = None
        self.traced, self._rested = 0, 0

    def rests(self) -> bool:
        """Whether the module is called itself this time, without looking for a plan."""
        most = 2 ** (self.traced - PATIENCE) if self.traced > PATIENCE else 0
        self._rested = self._rested + 1 if self._rested < most else 0
        return self._rested > 0

    def __reduce__(self) -> tuple:
        return Found, ()


def _facts(x: Tensor, states: Sequence[Mapping[str, Tensor]]) -> list[tuple]:
    """All about the arguments of modules that decides whether and how kernels can take them."""
    named = [(-1, "", x), *((i, name, t) for i, state in enumerate(states) for name, t in state.items())]
    return [(i, name, type(t), t.shape, t.dtype, t.device, t.is_neg(), t.is_conj()) for i, name, t in named]


def _fit(facts: Sequence[tuple]) -> bool:
    """Whether tensors are rows that the kernel of a layer reads and writes; the first is its input."""
    rows, own = facts[0][3][:1], facts[0][4]
    known = (own, compute_dtype(own), compute_dtype(own).to_complex())
    return own in SCALAR and rows[0] <= MOST_ROWS and all(
        kind is Tensor and shape[:1] == rows and 0 not in shape and dtype in known and device.type == "cpu"
        and not (negated or conjugated)
        for _, _, kind, shape, dtype, device, negated, conjugated in facts
    )  # fmt: skip


class StepPlan:
    """How some modules take a time step, compiled if that can be, for the tensors that are their weights now."""

    def __init__(
        self, whole: nn.Module, modules: Sequence[nn.Module], x: Tensor, states: Sequence[Mapping[str, Tensor]]
    ):
        self.facts, self.reading = _facts(x, states), Reading(whole, whole=True)
        self._team, self._default = threads.count(), torch.get_default_dtype()
        self.traced = 0
        self._weights: list[Tensor] = []
        steps = []
        for module, state in zip(modules, states, strict=True):
            step = self._step(module, self.reading if module is whole else Reading(module, whole=True), x, state)
            if step is None:
                break
            steps.append(step)
            x = x.new_empty(len(x), step.recipe.y[-1])  # what the next one reads
        self._places = unchanged([(Tensor.data_ptr, self._weights), (Tensor.stride, self._weights)])
        team = self._team if any(step.recipe.kernel.dealt for step in steps) else 1
        # What a step has changed outside of its module shows by now.
        self.chain = Chain(steps, team) if len(steps) == len(modules) and self.reading.holds() else None

    def holds(self) -> bool:
        """Whether all is still as it was planned for."""
        return (
            self._team == threads.count()
            and self._default is torch.get_default_dtype()
            and self.reading.holds()
            and still(self._places)
        )

    def _step(self, module: nn.Module, reading: Reading, x: Tensor, state: Mapping[str, Tensor]) -> SingleStep | None:
        if reading.does_more or reading.hooked or reading.parametrised:
            return None
        if not all(gate.is_plain(t) and t.dtype in SCALAR for t in reading.tensors.values()):
            return None
        key = (reading.key, tuple(_facts(x, [state])), self._default)
        if key not in _recipes:
            if len(_recipes) >= MOST_RECIPES:
                _recipes.clear()
            _recipes[key] = _made(module, x, state, reading.tensors)
            self.traced += 1
        recipe = _recipes[key]
        weights = {name: reading.tensors[name] for name in recipe.weights} if recipe else {}
        if recipe is None or not all(t.is_contiguous() for t in weights.values()):
            return None
        self._weights += weights.values()
        return SingleStep(recipe, {name: weight.data_ptr() for name, weight in weights.items()})


def _made(module: nn.Module, x: Tensor, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Recipe | None:
    """How to take a time step of a module, or None if that cannot be compiled."""
    names, one = list(state), x.shape[0] == 1  # of one sequence, kernels see no batch axis

    def function(states: tuple[Tensor, ...], inputs: dict[str, Tensor], own: dict[str, Tensor]) -> Any:
        carried = dict(zip(names, (s[None] for s in states) if one else states, strict=True))
        copy = with_tensors(module, own)
        for part in copy.modules():  # where engines will leave what they find out
            vars(part).setdefault("_reading", None)
        before = Reading(copy, whole=True)
        with torch.no_grad():
            y, after = copy(inputs["x"][None, None] if one else inputs["x"][:, None], carried, engine="loop")
        if not before.holds():
            raise Untraceable("it changes what it reads")
        return tuple(after[name][0] if one else after[name] for name in names), y[0, 0] if one else y[:, 0]

    if x.dtype is torch.float16 and not host.has_half():
        return None
    try:
        return Recipe(function, {name: t[0] if one else t for name, t in state.items()}, x[0] if one else x, weights)
    except InputError:
        raise
    except Exception:
        # Not having a kernel is no mistake; what is wrong, if something is, the module says when it is called itself.
        return None
