"""One long sequence on several threads: time is cut into segments that run side by side, and then repaired.

Every segment but the first has to guess the state it starts from. Afterwards it is run again from the state in which
its predecessor really ended, but only until it meets its own earlier trajectory: once all states agree to the last
bit, everything that follows is already right. A recurrence that forgets meets it soon; one that never forgets is run
twice, which on two threads costs no more than running it once on one. The result is that of the plain loop, bit for
bit.

How long that took is remembered for the next call of the same kind: all segments but the first then begin that much
earlier, so that the state they guess is the right one by the time it counts, while all threads are busy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recurra.engines.kernels.call import Call
from recurra.problem import Problem

SHORTEST = 256
"""Time steps below which a segment is not worth a thread."""

Launch = Callable[[Mapping[str, Tensor], int, int], None]
"""Runs the forward kernel on arguments by name, for a batch and a number of time steps."""


@dataclass(frozen=True)
class Cut:
    """Time steps, all multiples of the distance between stored states: the i-th segment goes from lead + i * each to
    lead + (i + 1) * each. The first begins with the lead; the others guess, and begin as many time steps earlier."""

    pieces: int
    lead: int
    each: int


def cut(call: Call, batch: int, time: int, pieces: int) -> Cut | None:
    """How to cut the time of a call, or None if that is not worth it."""
    if not call.cut or call.lengths or batch >= pieces:
        return None
    lead = min(sum(call.forgetting), time // pieces // 4) // call.chunk * call.chunk
    each = (time - lead) // pieces // call.chunk * call.chunk
    return Cut(pieces, lead, each) if each >= SHORTEST else None


def possible(problem: Problem, pieces: int) -> bool:
    """Whether a problem has fewer sequences than there are threads, and long ones."""
    return problem.lengths is None and problem.batch < pieces and problem.time // pieces >= 2 * SHORTEST


def run(launch: Launch, call: Call, memory: Mapping[str, Tensor], batch: int, cut: Cut) -> None:
    """Fill the results in `memory`, sequence by sequence."""
    for b in range(batch):
        _Sequence(launch, call, memory, b, cut).run()


class _Sequence:
    """One sequence of a batch."""

    def __init__(self, launch: Launch, call: Call, memory: Mapping[str, Tensor], b: int, cut: Cut):
        self.launch, self.call, self.memory, self.b, self.cut = launch, call, memory, b, cut
        plan = call.plan
        self.timed = {n for n, leaf in plan.leaves.items() if leaf.per_time} | {*plan.outputs, *plan.kept, "resets"}
        self.states = list(plan.states)
        self.time = memory[next(iter(plan.outputs))].shape[1]
        self.needed: list[int] = []

    def run(self) -> None:
        pieces, lead, each = self.cut.pieces, self.cut.lead, self.cut.each
        first = {n: self.memory[f"state.{n}"][self.b] for n in self.states}
        guesses = {n: t.expand(pieces, *t.shape).contiguous() for n, t in first.items()}
        if lead:
            # What the later segments write here, the earlier ones overwrite.
            guesses = self._steps(guesses, 0, lead, pieces)
        ends = self._steps(guesses, lead, each, pieces)
        state = {n: t[0] for n, t in ends.items()}
        for s in range(1, pieces):
            guess, old_end = ({n: t[s] for n, t in states.items()} for states in (guesses, ends))
            state = old_end if _same(state, guess) else self._repair(state, lead + s * each, old_end)
        if self.needed:
            self.call.forgetting[:] = [max(self.needed)]
        done = lead + pieces * each
        if done < self.time:
            state = self._one(state, done, self.time - done)
        for n, t in state.items():
            self.memory[f"last.{n}"][self.b] = t

    def _repair(self, state: dict[str, Tensor], begin: int, old_end: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run a segment from `state` until it meets what it was; gives the state it ends in."""
        at, end = begin, begin + self.cut.each
        steps = SHORTEST // self.call.chunk * self.call.chunk or self.call.chunk
        while at < end:
            steps = min(steps, end - at)
            last = at + steps == end
            number = (at + steps) // self.call.chunk
            old = old_end if last else {n: self.memory[f"stored.{n}"][self.b, number] for n in self.states}
            state = self._one(state, at, steps)
            at, steps = at + steps, 2 * steps
            if _same(state, old):
                self.needed.append(self.cut.lead + at - begin)
                return old_end
        self.needed.append(0)
        return state

    def _one(self, state: dict[str, Tensor], begin: int, steps: int) -> dict[str, Tensor]:
        ends = self._steps({n: t[None] for n, t in state.items()}, begin, steps, 1)
        return {n: t[0] for n, t in ends.items()}

    def _steps(self, states: dict[str, Tensor], begin: int, steps: int, pieces: int) -> dict[str, Tensor]:
        """Run `pieces` stretches of time, a segment apart, as if they were sequences; gives the states they end in."""
        view, apart = {}, self.cut.each if pieces > 1 else steps
        for name, t in self.memory.items():
            if name in self.timed:
                view[name] = t[self.b, begin : begin + pieces * apart].unflatten(0, (pieces, apart))[:, :steps]
            elif name.startswith("stored."):
                number = begin // self.call.chunk
                view[name] = t[self.b, number : number + pieces * -(-steps // self.call.chunk)]
            else:
                view[name] = t
        ends = {n: torch.empty_like(t) for n, t in states.items()}
        view |= {f"state.{n}": t.contiguous() for n, t in states.items()}
        view |= {f"last.{n}": t for n, t in ends.items()}
        self.launch(view, pieces, steps)
        return ends


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether all states agree to the last bit."""
    bits = {4: torch.int32, 8: torch.int64}

    def as_bits(t: Tensor) -> Tensor:
        return t.flatten().view(bits[t.element_size()])

    return all(torch.equal(as_bits(t), as_bits(b[n])) for n, t in a.items())
