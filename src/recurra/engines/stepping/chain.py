"""Single time steps of modules one after the other, as one launch of their kernels; and a sequence that goes on like
that, token after token, in memory of its own.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from recurra.compiler.codegen.single import LINE, counters
from recurra.engines.kernels import threads
from recurra.engines.stepping.recipe import Recipe


@dataclass(frozen=True)
class SingleStep:
    """A recipe, and where the weights lie that it reads; it does not keep them alive."""

    recipe: Recipe
    weights: Mapping[str, int]


@dataclass(frozen=True)
class Part:
    """A state of module `module` of a chain, or the real or the imaginary part of one, as kernels know it."""

    module: int
    name: str
    suffix: str


class Chain:
    """Single steps of modules, each of which reads what the one before gives."""

    def __init__(self, steps: Sequence[SingleStep], team: int):
        self.steps, self.team, self.real = steps, team, steps[0].recipe.real
        y = steps[-1].recipe.y
        self._y = torch.empty(y if len(y) > 1 else (1, *y), dtype=self.real, device="cpu")
        self.kernels = [step.recipe.kernel for step in steps]
        names = [(i, name) for i, kernel in enumerate(self.kernels) for name in kernel.pointers]
        self._place = {key: place for place, key in enumerate(names)}
        self.pointers = (ctypes.c_void_p * len(names))()
        for i, step in enumerate(steps):
            for name in step.recipe.weights:
                self.pointers[self._place[i, f"weight.{name}"]] = step.weights[name]
            for name, data in step.recipe.data.items():
                self.pointers[self._place[i, name]] = data.data_ptr()
        counts = [len(kernel.pointers) for kernel in self.kernels]
        begins = [ctypes.sizeof(ctypes.c_void_p) * at for at in accumulate(counts, initial=0)]
        self.own = [(ctypes.c_void_p * count, at) for count, at in zip(counts, begins, strict=False)]
        self.offsets, self.cleared, self.size = self._lay_out()
        self.scratch = self._bytes(max(kernel.scratch for kernel in self.kernels))
        self._parts = [part for i, step in enumerate(steps) for part in _parts(i, step.recipe)]
        self.read = [self._place.get((p.module, f"state.{p.name}{p.suffix}")) for p in self._parts]
        self.written = [self._place.get((p.module, f"next.{p.name}{p.suffix}")) for p in self._parts]
        self.x, self.result = self._place.get((0, "input.x")), self._place[len(steps) - 1, "y"]
        self._idle: list[Launch] = []

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

    def input(self, x: Tensor) -> Tensor:
        """x as kernels read it."""
        return (x if x.dtype is self.real else x.to(self.real)).contiguous()

    def memory(self) -> Tensor:
        """What kernels need besides their arguments, for one launch at a time."""
        return torch.empty(self.size + self.team * self.scratch, dtype=torch.uint8, device="cpu")

    def result_memory(self) -> Tensor:
        """Memory for a result."""
        return torch.empty_like(self._y)

    def split(self, states: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        """States of all modules as kernels read them."""
        whole = (states[part.module][part.name] for part in self._parts)
        return [
            (getattr(state, part.suffix[1:]) if part.suffix else state).contiguous()
            for state, part in zip(whole, self._parts, strict=True)
        ]

    def join(self, parts: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """The other way round."""
        states: list[dict[str, Tensor]] = [{} for _ in self.steps]
        for part, tensor in zip(self._parts, parts, strict=True):
            own = states[part.module]
            own[part.name] = torch.complex(own[part.name], tensor) if part.suffix == ".imag" else tensor
        return states

    def run(self, x: Tensor, states: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """One time step of x, as `input` gives it: the result, in the type that is computed in, and new states."""
        before = self.split(states)
        after = list(map(torch.empty_like, before))
        try:
            launch = self._idle.pop()
        except IndexError:  # others are running
            launch = Launch(self, self.memory())
        launch.aim(before, after)
        y = launch.run(x)
        self._idle.append(launch)
        return y, self.join(after)


def _parts(module: int, recipe: Recipe) -> list[Part]:
    return [
        Part(module, name, suffix)
        for name, dtype in recipe.states.items()
        for suffix in ([".real", ".imag"] if dtype.is_complex else [""])
    ]


class Launch:
    """Time steps of a chain with all their arguments but x, one at a time: from states to memory for those after."""

    def __init__(self, chain: Chain, memory: Tensor):
        self._kept: tuple = (memory,)
        self._chain, self._memory = chain, memory.data_ptr()
        self._pointers = pointers = type(chain.pointers).from_buffer_copy(chain.pointers)
        for place, offset in chain.offsets:
            pointers[place] = self._memory + offset
        own = [kind.from_buffer(pointers, begin) for kind, begin in chain.own]
        team = (ctypes.c_int64 * 1)(chain.team)
        self._task = threads.Task(chain.kernels, own, team, self._memory + chain.size, chain.scratch, chain.team)

    def aim(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """States as `Chain.split` gives them, and where those after the step go."""
        pointers, chain = self._pointers, self._chain
        for place, state in zip(chain.read, before, strict=True):
            if place is not None:
                pointers[place] = state.data_ptr()
        for place, state in zip(chain.written, after, strict=True):
            if place is not None:
                pointers[place] = state.data_ptr()

    def run(self, x: Tensor) -> Tensor:
        """The result; the states are then where they were to go."""
        chain, pointers = self._chain, self._pointers
        y = chain.result_memory()
        pointers[chain.result] = y.data_ptr()
        if chain.x is not None:
            pointers[chain.x] = x.data_ptr()
        if chain.cleared:
            ctypes.memset(self._memory, 0, chain.cleared)
        threads.run(self._task, chain.team)
        return y


class Walk:
    """A sequence that takes one time step after another through a chain. Its states lie in two places of its own by
    turns, so that nothing is made for a step but its result. Once they have been asked for they are the caller's, and
    the walk is over.

    Several threads may ask; one is served after another.
    """

    def __init__(self, chain: Chain, states: Sequence[Mapping[str, Tensor]]):
        self._chain, self._lock = chain, threading.Lock()
        self._states, self._memory = chain.split(states), chain.memory()
        self._launches: list[tuple[Launch, list[Tensor]]] = []
        self._turn = 0
        self._end: list[dict[str, Tensor]] | None = None

    def steps(self, xs: Iterable[Tensor]) -> Tensor | None:
        """The last of what `Chain.run` gives for one x after another and the states so far; None if the walk is over,
        or without an x."""
        y = None
        with self._lock:
            for x in xs if self._end is None else ():
                launch, after = self._launches[self._turn] if self._turn < len(self._launches) else self._launch()
                y = launch.run(x)
                # From the states it was given into one place, then to and fro between that and another.
                self._states, self._turn = after, 1 if self._turn == 2 else self._turn + 1
        return y

    def _launch(self) -> tuple[Launch, list[Tensor]]:
        with torch.inference_mode(False):
            after = self._launches[0][1] if self._turn == 2 else list(map(torch.empty_like, self._states))
        launch = Launch(self._chain, self._memory)
        launch.aim(self._states, after)
        self._launches.append((launch, after))
        return self._launches[-1]

    def end(self) -> list[dict[str, Tensor]]:
        """The states after the last step."""
        with self._lock:
            if self._end is None:
                self._end = self._chain.join(self._states)
                self._launches.clear()
            return self._end
