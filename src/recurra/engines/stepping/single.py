"""One time step of something large, a layer or a block of a model with all its matrices, as one kernel: what streaming
runs on the CPU.

Anything that can be traced will do: a function of some states and one vector, with weights, to new states and one
vector. Weights are read where they lie and as they are stored, once per time step.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from recurra.compiler.targets import host
from recurra.engines import gate
from recurra.engines.kernels import threads
from recurra.engines.stepping.chain import Chain, SingleStep
from recurra.engines.stepping.modules import Snapshot, fingerprint, is_hooked, is_plain, with_tensors
from recurra.engines.stepping.recipe import Recipe
from recurra.engines.traced import SCALAR
from recurra.engines.unseen import unseen
from recurra.errors import InputError
from recurra.problem import compute_dtype

_recipes: dict[Hashable, Recipe | None] = {}
_lock = threading.RLock()
MOST_RECIPES = 512
"""Kinds of modules whose kernels are remembered."""


def advance(
    whole: nn.Module, modules: Callable[[], Sequence[nn.Module]], x: Tensor, states: Sequence[Mapping[str, Tensor]]
) -> tuple[Tensor, list[dict[str, Tensor]]] | None:
    """What modules give, each called with what the one before gives and its state, without gradient; or None where
    they have to be called themselves.

    Args:
        whole: what the modules are parts of; as long as nothing in it changes, neither do they.
        modules: gives them; each is called as layers are: x [1, 1, D] and state to y [1, 1, D'] and the new state.
        x: [1, 1, D], of the type of all modules.
        states: of one sequence, tensors [1, ...], as each module returned its own.

    Returns:
        the last y and all new states.

    Raises:
        InputError: a module's own, if x or its state do not fit it.
    """
    if x.shape[:2] != (1, 1) or not undisturbed():
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
    )


@unseen
def _advance(
    whole: nn.Module, modules: Callable[[], Sequence[nn.Module]], x: Tensor, states: Sequence[Mapping[str, Tensor]]
) -> tuple[Tensor, list[dict[str, Tensor]]] | None:
    plan = step_plan(whole, modules, x, states)
    if plan is None or plan.chain is None:
        return None
    y, after = plan.chain.run(plan.chain.input(x), states)
    return y[None, None].to(x.dtype), after


def step_plan(
    whole: nn.Module, modules: Callable[[], Sequence[nn.Module]], x: Tensor, states: Sequence[Mapping[str, Tensor]]
) -> StepPlan | None:
    """How to `advance`, or None if such arguments are never taken."""
    if not all(isinstance(t, Tensor) for state in states for t in state.values()):
        return None
    facts = _facts(x, states)
    found = vars(whole).setdefault("_step_plan", Found())
    known = found.plan if found.whole() is whole else None
    if known is None or known.facts != facts or not known.holds():
        if not _fit(facts):
            return None
        with _lock:
            known = StepPlan(whole, modules(), x, states)
            vars(whole)["_step_plan"] = Found(weakref.ref(whole), known)
    return known


@dataclass(frozen=True)
class Found:
    """The plan of a module, which the module itself keeps: it goes when the module goes. Copies begin without."""

    whole: Callable[[], nn.Module | None] = lambda: None
    plan: StepPlan | None = None

    def __reduce__(self) -> tuple:
        return Found, ()


def _facts(x: Tensor, states: Sequence[Mapping[str, Tensor]]) -> list[tuple]:
    """All about the arguments of modules that decides whether and how kernels can take them."""
    named = [(-1, "", x), *((i, name, t) for i, state in enumerate(states) for name, t in state.items())]
    return [(i, name, type(t), t.shape, t.dtype, t.device, t.is_neg(), t.is_conj()) for i, name, t in named]


def _fit(facts: Sequence[tuple]) -> bool:
    """Whether tensors are rows that the kernel of a layer reads and writes; the first is its input."""
    own = facts[0][4]
    known = (own, compute_dtype(own), compute_dtype(own).to_complex())
    return own in SCALAR and all(
        kind is Tensor and shape[:1] == (1,) and 0 not in shape and dtype in known and device.type == "cpu"
        and not (negated or conjugated)
        for _, _, kind, shape, dtype, device, negated, conjugated in facts
    )  # fmt: skip


class StepPlan:
    """How some modules take a time step, compiled if that can be, for the tensors that are their weights now."""

    def __init__(
        self, whole: nn.Module, modules: Sequence[nn.Module], x: Tensor, states: Sequence[Mapping[str, Tensor]]
    ):
        self.facts, self.snapshot, self._team = _facts(x, states), Snapshot(whole), threads.count()
        steps = []
        for module, state in zip(modules, states, strict=True):
            step = _step(module, x, state)
            if step is None:
                break
            steps.append(step)
        team = self._team if any(step.recipe.kernel.dealt for step in steps) else 1
        self.chain = Chain(steps, team) if len(steps) == len(modules) else None

    def holds(self) -> bool:
        """Whether all is still as it was planned for."""
        return self._team == threads.count() and self.snapshot.holds()


def _step(module: nn.Module, x: Tensor, state: Mapping[str, Tensor]) -> SingleStep | None:
    weights = dict(module.named_parameters()) | dict(module.named_buffers())
    readable = all(t.is_contiguous() and gate.is_plain(t) for t in weights.values())
    if not readable or not is_plain(module) or is_hooked(module):
        return None
    recipe = _recipe(module, x, state, weights)
    if recipe is None:
        return None
    return SingleStep(recipe, {name: weights[name].data_ptr() for name in recipe.weights})


def _recipe(module: nn.Module, x: Tensor, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Recipe | None:
    """How to take a time step of a module, or None if that cannot be compiled; found out once for modules alike."""
    key = (
        fingerprint(module),
        tuple(_facts(x, [state])),
        tuple((n, t.shape, t.dtype, t.device) for n, t in weights.items()),
    )
    if key not in _recipes:
        if len(_recipes) >= MOST_RECIPES:
            _recipes.clear()
        _recipes[key] = _made(module, x, state, weights)
    return _recipes[key]


def _made(module: nn.Module, x: Tensor, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Recipe | None:
    names = list(state)

    def function(states: tuple[Tensor, ...], inputs: dict[str, Tensor], own: dict[str, Tensor]) -> Any:
        carried = dict(zip(names, (s[None] for s in states), strict=True))
        y, after = with_tensors(module, own)(inputs["x"][None, None], carried, engine="loop")
        return tuple(after[name][0] for name in names), y[0, 0]

    if any(t.dtype not in SCALAR for t in weights.values()) or (x.dtype is torch.float16 and not host.has_half()):
        return None
    try:
        return Recipe(function, {name: t[0] for name, t in state.items()}, x[0, 0], weights)
    except InputError:
        raise
    except Exception:
        # Not having a kernel is no mistake; what is wrong, if something is, the module says when it is called itself.
        return None
