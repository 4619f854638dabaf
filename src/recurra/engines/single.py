"""One time step of something large, a layer or a block of a model with all its matrices, as one kernel: what streaming
runs on the CPU.

Anything that can be traced will do: a function of some states and one vector, with weights, to new states and one
vector. Weights are read where they lie and as they are stored, once per time step.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from recurra.compiler import cache
from recurra.compiler.graph import listing, topological
from recurra.compiler.machine import vector_bytes
from recurra.compiler.plan import parts
from recurra.compiler.regroup import regroup
from recurra.compiler.schedule import expand_products, schedule
from recurra.compiler.single import Single, write_single
from recurra.compiler.trace import Untraceable, trace
from recurra.engines import threads
from recurra.engines.modules import Snapshot, with_tensors
from recurra.engines.traced import SCALAR
from recurra.engines.unseen import unseen
from recurra.errors import InputError
from recurra.problem import cast, compute_dtype

_steps: weakref.WeakKeyDictionary[nn.Module, ModuleStep] = weakref.WeakKeyDictionary()
_recipes: dict[Hashable, Recipe | None] = {}
_lock = threading.RLock()
MOST_RECIPES = 512
"""Kinds of modules whose kernels are remembered."""


def advance(
    modules: Sequence[nn.Module], x: Tensor, states: Sequence[Mapping[str, Tensor]]
) -> tuple[Tensor, list[dict[str, Tensor]]] | None:
    """What modules give, each called with what the one before gives and its state, without gradient; or None where
    they have to be called themselves.

    Args:
        modules: called as layers are: x [1, 1, D] and state to y [1, 1, D'] and the new state.
        x: [1, 1, D], of the type of all modules.
        states: of one sequence, tensors [1, ...], as each module returned its own.

    Returns:
        the last y and all new states.

    Raises:
        InputError: a module's own, if x or its state do not fit it.
    """
    if torch.is_grad_enabled() or x.shape[:2] != (1, 1) or torch.compiler.is_compiling():
        return None
    return _advance(modules, x, states)


@unseen
def _advance(
    modules: Sequence[nn.Module], x: Tensor, states: Sequence[Mapping[str, Tensor]]
) -> tuple[Tensor, list[dict[str, Tensor]]] | None:
    if torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    if forward_ad._current_level >= 0:
        return None
    steps: list[SingleStep] = []
    for module, state in zip(modules, states, strict=True):
        if not all(_fits(t, x.dtype) for t in (x, *state.values())):
            return None
        step = _step(module, x, state)
        if step is None:
            return None
        steps.append(step)
    return _run(steps, x, states)


def _fits(t: object, dtype: torch.dtype) -> bool:
    """Whether a tensor is one row that the kernel of a layer of that type reads and writes."""
    if type(t) is not Tensor or t.device.type != "cpu" or dtype not in SCALAR:
        return False
    real = compute_dtype(dtype)
    own = t.dtype in (dtype, real, real.to_complex()) and not t.is_neg() and not t.is_conj()
    return own and t.dim() > 0 and t.shape[0] == 1 and t.numel() > 0


def _step(module: nn.Module, x: Tensor, state: Mapping[str, Tensor]) -> SingleStep | None:
    known = _steps.get(module)
    if known is None or known.facts != _facts(x, state) or not known.snapshot.holds():
        with _lock:
            known = _steps[module] = ModuleStep(module, x, state)
    return known.step


class ModuleStep:
    """One time step of a module, compiled if that can be, for the tensors that are its weights now."""

    def __init__(self, module: nn.Module, x: Tensor, state: Mapping[str, Tensor]):
        self.facts, self.snapshot = _facts(x, state), Snapshot(module)
        weights = dict(module.named_parameters()) | dict(module.named_buffers())
        usable = self.snapshot.plain and not self.snapshot.hooked and all(t.is_contiguous() for t in weights.values())
        recipe = _recipe(module, self.snapshot, x, state, weights) if usable else None
        self.step = None if recipe is None else SingleStep(recipe, weights)


def _facts(x: Tensor, state: Mapping[str, Tensor]) -> Hashable:
    return x.shape, x.dtype, tuple((name, t.shape, t.dtype) for name, t in state.items())


def _recipe(
    module: nn.Module, snapshot: Snapshot, x: Tensor, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Recipe | None:
    """How to take a time step of a module, or None if that cannot be compiled; found out once for modules alike."""
    key = (snapshot.fingerprint, _facts(x, state), tuple((n, t.shape, t.dtype) for n, t in weights.items()))
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

    if any(t.device.type != "cpu" or t.dtype not in SCALAR for t in weights.values()):
        return None
    try:
        return Recipe(function, {name: t[0] for name, t in state.items()}, x[0, 0], weights)
    except InputError:
        raise
    except Exception:
        # Not having a kernel is no mistake; what is wrong, if something is, the module says when it is called itself.
        return None


class Recipe:
    """A function of states, x and weights as a kernel, for any weights of the same shapes.

    Raises Untraceable if it cannot be compiled.
    """

    def __init__(self, function: Callable, states: Mapping[str, Tensor], x: Tensor, weights: Mapping[str, Tensor]):
        self.real, self.dtype = compute_dtype(x.dtype), x.dtype
        computed = {name: cast(weight, self.real) for name, weight in weights.items()}
        examples = {name: cast(state, self.real) for name, state in states.items()}
        traced = trace(function, examples, {"x": cast(x, self.real)}, computed)
        outputs = {k: n for name, value in traced.states.items() for k, n in parts(f"next.{name}", value).items()}
        outputs = regroup(traced.graph, expand_products(traced.graph, outputs | parts("y", traced.y), set()))
        used = {node.attr for node in topological(outputs.values()) if node.op == "input"}
        scalar = SCALAR[self.real]
        kinds = {name: SCALAR.get(state.dtype, scalar) for name, state in states.items()}
        leaves = {name: kinds.get(name[6:], scalar) for name in used if name.startswith(("state.", "input."))}
        self.weights = [name for name in weights if f"weight.{name}" in used]
        leaves |= {f"weight.{name}": SCALAR[weights[name].dtype] for name in self.weights}
        if "y" not in outputs or set(leaves) != used:
            raise Untraceable("single steps are compiled for real weights and outputs")
        self.y = outputs["y"].shape
        written = {name: kinds.get(name[5:], scalar) for name in outputs}
        single = Single(schedule(outputs), leaves, written, scalar)
        width, text = vector_bytes() // (8 if scalar == "double" else 4), listing(outputs)
        key = f"single {text} {sorted((leaves | written).items())} {scalar}"
        self.kernel = cache.get(key, lambda: write_single(single, width), lambda: text)


class SingleStep:
    """A recipe with the weights it reads, which stay where they are."""

    def __init__(self, recipe: Recipe, weights: Mapping[str, Tensor]):
        self.recipe, kernel = recipe, recipe.kernel
        self._place = {name: i for i, name in enumerate(kernel.pointers)}
        self._pointers = (ctypes.c_void_p * len(kernel.pointers))()
        for name in recipe.weights:
            self._pointers[self._place[f"weight.{name}"]] = weights[name].data_ptr()

    def call(self, x: Tensor, state: Mapping[str, Tensor]) -> Call:
        """A call for x [1, 1, D], in the type that is computed in, and state, tensors [1, ...]."""
        recipe, kernel = self.recipe, self.recipe.kernel
        y = torch.empty(1, 1, *recipe.y, dtype=recipe.real, device="cpu")
        memory = {"input.x": x, "y": y}
        after = {name: torch.empty_like(t, memory_format=torch.contiguous_format) for name, t in state.items()}
        for name, before in state.items():
            if not before.is_complex():
                memory |= {f"state.{name}": before.contiguous(), f"next.{name}": after[name]}
                continue
            for part in ("real", "imag"):
                memory[f"state.{name}.{part}"] = getattr(before, part).contiguous()
                memory[f"next.{name}.{part}"] = torch.empty(before.shape, dtype=recipe.real, device="cpu")
        memory["shared"] = shared = torch.zeros(kernel.shared + 2 * kernel.meetings, dtype=recipe.real, device="cpu")
        pointers = type(self._pointers).from_buffer_copy(self._pointers)
        for name, t in memory.items():
            if name in self._place:
                pointers[self._place[name]] = t.data_ptr()
        pointers[self._place["meetings"]] = shared.data_ptr() + kernel.shared * shared.element_size()
        return Call(pointers, memory, after, y)


@dataclass(frozen=True)
class Call:
    """The arguments of one kernel, and what it writes."""

    pointers: Any
    memory: Mapping[str, Tensor]
    after: dict[str, Tensor]
    y: Tensor

    def state(self) -> dict[str, Tensor]:
        """The new state, once the kernel has run."""
        for name, t in self.after.items():
            if t.is_complex():
                self.after[name] = torch.complex(self.memory[f"next.{name}.real"], self.memory[f"next.{name}.imag"])
        return self.after


def _run(
    steps: Sequence[SingleStep], x: Tensor, states: Sequence[Mapping[str, Tensor]]
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """One step after the other, each on what the one before gives, without coming back to Python in between."""
    kernels, real, dtype = [step.recipe.kernel for step in steps], steps[0].recipe.real, x.dtype
    calls: list[Call] = []
    x = x.to(real).contiguous()
    for step, state in zip(steps, states, strict=True):
        calls.append(step.call(calls[-1].y if calls else x, state))
    team = threads.team() if any(kernel.meetings for kernel in kernels) else 1
    scratch = torch.empty(team, max(kernel.scratch for kernel in kernels) + 16, dtype=real, device="cpu")
    size = scratch.stride(0) * scratch.element_size()
    pointers = [call.pointers for call in calls]
    threads.run(kernels, threads.Task(pointers, (ctypes.c_int64 * 1)(team), scratch.data_ptr(), size, team), team)
    return calls[-1].y.to(dtype), [call.state() for call in calls]
