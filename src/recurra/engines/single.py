"""One time step of something large, a layer or a block of a model with all its matrices, as one kernel: what streaming
runs on the CPU.

Anything that can be traced will do: a function of some states and one vector, with weights, to new states and one
vector. Weights are read where they lie and as they are stored, once per time step.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
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
from recurra.compiler.single import LINE, Single, counters, write_single
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
MOST_CHAINS = 64
"""Sequences of modules whose arguments are remembered."""


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
    tensors = [x, *(t for state in states for t in state.values())]
    if set(map(type, tensors)) != {Tensor} or x.dtype not in SCALAR:
        return None
    steps: list[SingleStep] = []
    for module, state in zip(modules, states, strict=True):
        step = _step(module, x, state)
        if step is None:
            return None
        steps.append(step)
    y, after = _chain(steps).run(x.to(steps[0].recipe.real).contiguous(), states)
    return y.to(x.dtype), after


def _facts(x: Tensor, state: Mapping[str, Tensor]) -> tuple[tuple, ...]:
    """All about the arguments of a module that decides whether and how a kernel can take them."""
    named = (("", x), *state.items())
    return tuple([(name, t.shape, t.dtype, t.device, t.is_neg(), t.is_conj()) for name, t in named])


def _fit(facts: tuple[tuple, ...]) -> bool:
    """Whether tensors are rows that the kernel of a layer reads and writes; the first is its input."""
    own = facts[0][2]
    known = (own, compute_dtype(own), compute_dtype(own).to_complex())
    return all(
        shape[:1] == (1,) and 0 not in shape and dtype in known and device.type == "cpu" and not (negated or conjugated)
        for _, shape, dtype, device, negated, conjugated in facts
    )


def _step(module: nn.Module, x: Tensor, state: Mapping[str, Tensor]) -> SingleStep | None:
    known, facts = _steps.get(module), _facts(x, state)
    if known is None or known.facts != facts or not known.snapshot.holds():
        if not _fit(facts):
            return None
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
        self.step = None
        if recipe is not None:
            self.step = SingleStep(recipe, {name: weights[name].data_ptr() for name in recipe.weights})


def _recipe(
    module: nn.Module, snapshot: Snapshot, x: Tensor, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Recipe | None:
    """How to take a time step of a module, or None if that cannot be compiled; found out once for modules alike."""
    key = (snapshot.fingerprint, _facts(x, state), tuple((n, t.shape, t.dtype, t.device) for n, t in weights.items()))
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


@dataclass(frozen=True)
class SingleStep:
    """A recipe, and where the weights lie that it reads; it does not keep them alive."""

    recipe: Recipe
    weights: Mapping[str, int]


class Chain:
    """Single steps of modules, each of which reads what the one before gives: one launch."""

    def __init__(self, steps: Sequence[SingleStep], team: int):
        self.steps, self.team, self.real = steps, team, steps[0].recipe.real
        self.kernels = [step.recipe.kernel for step in steps]
        names = [(i, name) for i, kernel in enumerate(self.kernels) for name in kernel.pointers]
        self._place = {key: place for place, key in enumerate(names)}
        self._pointers = (ctypes.c_void_p * len(names))()
        for i, step in enumerate(steps):
            for name in step.recipe.weights:
                self._pointers[self._place[i, f"weight.{name}"]] = step.weights[name]
        counts = [len(kernel.pointers) for kernel in self.kernels]
        begins = [ctypes.sizeof(ctypes.c_void_p) * at for at in accumulate(counts, initial=0)]
        self._own = [(ctypes.c_void_p * count, at) for count, at in zip(counts, begins, strict=False)]
        self._offsets, self._cleared, self._size = self._lay_out()
        self._scratch = self._bytes(max(kernel.scratch for kernel in self.kernels))

    def _bytes(self, numbers: int) -> int:
        """In whole lines of the cache."""
        return -(-numbers * self.real.itemsize // LINE) * LINE

    def _lay_out(self) -> tuple[list[tuple[int, int]], int, int]:
        """Where in memory of their own kernels find what is not the caller's, as (place among the pointers, offset);
        and the bytes of it: how many have to be zero, which come first, and all."""
        sizes: dict[tuple[tuple[int, str], ...], int] = {}
        for i, kernel in enumerate(self.kernels):
            sizes[((i, "cleared"),)] = self._bytes(kernel.cleared)
            sizes[((i, "counters"),)] = counters(kernel.dealt, self.team)
        cleared = sum(sizes.values())
        for i, (step, kernel) in enumerate(zip(self.steps, self.kernels, strict=True)):
            sizes[((i, "shared"),)] = self._bytes(kernel.shared)
            if i + 1 < len(self.steps):
                sizes[(i, "y"), (i + 1, "input.x")] = self._bytes(math.prod(step.recipe.y))
        begins = accumulate(sizes.values(), initial=0)
        offsets = [(key, at) for keys, at in zip(sizes, begins, strict=False) for key in keys if key in self._place]
        return [(self._place[key], at) for key, at in offsets], cleared, sum(sizes.values())

    def run(self, x: Tensor, states: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """One time step; x [1, 1, D] is contiguous and, as the result is, in the type that is computed in."""
        last = len(self.steps) - 1
        y = torch.empty(1, 1, *self.steps[last].recipe.y, dtype=self.real, device="cpu")
        memory = {(0, "input.x"): x, (last, "y"): y}
        after = [{n: self._state(i, n, t, memory) for n, t in state.items()} for i, state in enumerate(states)]
        shared = torch.empty(self._size + self.team * self._scratch, dtype=torch.uint8, device="cpu")
        shared[: self._cleared] = 0
        pointers = type(self._pointers).from_buffer_copy(self._pointers)
        places, at = self._place, shared.data_ptr()
        for place, offset in self._offsets:
            pointers[place] = at + offset
        for key, t in memory.items():
            if key in places:
                pointers[places[key]] = t.data_ptr()
        own = [kind.from_buffer(pointers, begin) for kind, begin in self._own]
        task = threads.Task(own, (ctypes.c_int64 * 1)(self.team), at + self._size, self._scratch, self.team)
        threads.run(self.kernels, task, self.team)
        for i, name in self._complex(states):
            after[i][name] = torch.complex(memory[i, f"next.{name}.real"], memory[i, f"next.{name}.imag"])
        return y, after

    @staticmethod
    def _complex(states: Sequence[Mapping[str, Tensor]]) -> list[tuple[int, str]]:
        return [(i, name) for i, state in enumerate(states) for name, t in state.items() if t.is_complex()]

    def _state(self, i: int, name: str, before: Tensor, memory: dict[tuple[int, str], Tensor]) -> Tensor:
        """Memory for a state of module i, before and after the step."""
        if not before.is_complex():
            memory[i, f"state.{name}"] = before.contiguous()
            memory[i, f"next.{name}"] = after = torch.empty_like(before, memory_format=torch.contiguous_format)
            return after
        real = self.steps[i].recipe.real
        for part in ("real", "imag"):
            memory[i, f"state.{name}.{part}"] = getattr(before, part).contiguous()
            memory[i, f"next.{name}.{part}"] = torch.empty(before.shape, dtype=real, device="cpu")
        return before


_chains: dict[tuple[int, ...], Chain] = {}


def _chain(steps: Sequence[SingleStep]) -> Chain:
    """The chain of these very steps; the last few are remembered."""
    team = threads.count() if any(step.recipe.kernel.dealt for step in steps) else 1
    # A chain keeps its steps, so that their addresses stay their own as long as it is known.
    key = (team, *map(id, steps))
    known = _chains.get(key)
    if known is None:
        with _lock:
            while len(_chains) >= MOST_CHAINS:
                _chains.pop(next(iter(_chains)))
            known = _chains[key] = Chain(steps, team)
    return known
