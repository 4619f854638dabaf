"""A guess of a whole trajectory that knows about basins: every stretch of time is run from several states at once.

A Newton correction is local. Where a step has several resting places, as in a unit that has learned to hold a bit, a
stretch of the trajectory in the wrong one solves the recurrence at every time step but its first, so that only this
border moves, some steps at a time. Here time is cut into about sqrt(T) stretches, and the loop runs all of them side by
side, from a handful of states that the trajectory visits. Then stretches are strung together: after each comes the run
of the next that starts nearest to where it ended. What was strung together says where each stretch really starts, that
run is added to the choice, and once more.

Sources: running stretches of time side by side from guessed states, and repairing the guesses, is multiple shooting and
parareal (A "parareal" in time discretization of PDE's, Lions, Maday, Turinici, 2001). Choosing among runs rather than
correcting one is our own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recurra.engines.newton.system import System

RUNS = 4
"""States that every stretch is run from, besides the one that it is believed to start from."""
ROUNDS = 2
"""How often what was strung together gives new states to start from."""


def guess(system: System, h: Tensor) -> Tensor:
    """A trajectory [B, T, b, N] that is the loop's within every stretch of time, from one that may be wrong."""
    time = h.shape[1]
    steps = math.isqrt(time)
    number = time // steps
    starts = h.new_empty(RUNS + 1, h.shape[0], number, *h.shape[2:])
    runs = h.new_empty(RUNS + 1, h.shape[0], number, steps, *h.shape[2:])

    def follow(before: Tensor) -> None:
        starts[0], runs[0] = before, system.stretches(before, 0, steps)

    follow(_starts(system, h[:, steps - 1 : number * steps : steps]))
    for i, state in enumerate(_spread(runs[0, :, :, -1].flatten(0, 1)), 1):
        starts[i] = state
        runs[i] = system.stretches(starts[i], 0, steps)
    strung = _strung(starts, runs)
    for _ in range(ROUNDS):
        follow(_starts(system, strung[:, :, -1]))
        strung = _strung(starts, runs)
    whole = strung.flatten(1, 2)
    rest = time - whole.shape[1]
    return torch.cat([whole, system.stretches(whole[:, -1:], time - rest, rest)[:, 0]], 1) if rest else whole


def _starts(system: System, ends: Tensor) -> Tensor:
    """The states before every stretch, from those after it: [B, S, b, N]."""
    return torch.cat([system.first_blocks[:, None], ends[:, :-1]], 1)


def _spread(states: Tensor) -> Tensor:
    """For every block RUNS of its states [S, b, N], as far apart as they come: [RUNS, b, N]."""
    widest = (states.amax(0) - states.amin(0)).argmax(0, keepdim=True)
    order = states.gather(1, widest.expand(len(states), 1, -1)).argsort(0)
    places = torch.linspace(0, len(states) - 1, RUNS, device=states.device).round().long()
    return states.gather(0, order[places].expand(-1, states.shape[1], -1))


def _strung(starts: Tensor, runs: Tensor) -> Tensor:
    """One run for every stretch and block, [B, S, steps, b, N]: each starts as near as can be to where the last ended.

    Args:
        starts: [R, B, S, b, N].
        runs: [R, B, S, steps, b, N].
    """
    ends = runs[:, :, :-1, -1]
    apart = torch.stack([(end - starts[:, :, 1:]).abs().amax(-2).nan_to_num(math.inf, math.inf) for end in ends])
    after = apart.argmin(1)
    chosen = [torch.zeros_like(starts[0, :, 0, 0], dtype=torch.long)]
    for s in range(after.shape[2]):
        chosen.append(after[:, :, s].gather(0, chosen[-1][None])[0])
    which = torch.stack(chosen, 1)[None, :, :, None, None]
    return runs.gather(0, which.expand(1, *runs.shape[1:]))[0]
