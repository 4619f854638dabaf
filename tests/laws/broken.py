"""Recurrences and engines that are wrong on purpose, at least one for each law."""

import torch
from torch import nn

from recurra import Lane, Recurrence
from recurra.engines import loop
from recurra.problem import Problem, Rollout


class Healthy(Recurrence):
    """A small correct recurrence that the broken ones differ from in one thing each."""

    lane = Lane.CHANNEL

    def __init__(self, width):
        super().__init__(width)
        self.to_gate = nn.Linear(width, width)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"gate": self.to_gate(x), "x": x}

    def step(self, h, gate, x):
        z = torch.sigmoid(gate)
        h = h + z * (torch.tanh(x) - h)
        return h, h * x


class Shifted:
    """An engine whose outputs come one time step late."""

    compilations = staticmethod(lambda: 0)

    @staticmethod
    def refuses(_problem: Problem):
        return None

    @staticmethod
    def run(problem: Problem) -> Rollout:
        rollout = loop.run(problem)
        return Rollout(torch.roll(rollout.y, 1, 1), rollout.state)


class Detached(Shifted):
    """An engine that drops the gradient of the state it was given."""

    @staticmethod
    def run(problem):
        from dataclasses import replace

        state = {name: value.detach() for name, value in problem.state.items()}
        return loop.run(replace(problem, state=state))


class Compiling(Shifted):
    """An engine that compiles on every call."""

    count = 0

    @staticmethod
    def compilations():
        return Compiling.count

    @staticmethod
    def run(problem):
        Compiling.count += 1
        return loop.run(problem)


class Rounding(Shifted):
    """An engine that computes in less precision than it was given."""

    @staticmethod
    def run(problem):
        rollout = loop.run(problem)
        short = torch.float32 if problem.dtype == torch.float64 else torch.bfloat16
        return Rollout(rollout.y.to(short).to(problem.dtype), rollout.state)


class ForgetsWindow(Healthy):
    """Looks one step back without carrying what it saw."""

    def inputs(self, x):
        return {"gate": self.to_gate(torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)), "x": x}


class ReadsLength(Healthy):
    """Depends on how long the call is."""

    def inputs(self, x):
        return {"gate": self.to_gate(x) * max(1, x.shape[1]), "x": x}


class MixesPadding(Healthy):
    """Normalises over the whole row, padding and packed neighbours included."""

    def inputs(self, x):
        return {"gate": self.to_gate(x) - x.abs().amax(1, keepdim=True), "x": x}


class Peeks(Healthy):
    """Sees the next input."""

    def inputs(self, x):
        return {"gate": self.to_gate(torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)), "x": x}


class WrongSlope(Healthy):
    """Its gradient is not that of its value."""

    def step(self, h, gate, x):
        h, y = super().step(h, gate, x)
        return h, y.detach() * 2 - y


class SpreadsNaN(Healthy):
    """Mixes sequences."""

    def inputs(self, x):
        return {"gate": self.to_gate(x), "x": x + 0 * x.sum()}


class FirstStepOnly(Healthy):
    """Needs at least one time step."""

    def inputs(self, x):
        return {"gate": self.to_gate(x - x[:, 0:1].reshape(x.shape[0], 1, x.shape[2])), "x": x}


class HidesState(Healthy):
    """Keeps something outside its parameters, buffers and state."""

    def __init__(self, width):
        super().__init__(width)
        self.hidden = [float(torch.randn(()))]

    def inputs(self, x):
        return {"gate": self.to_gate(x) + self.hidden[0], "x": x}


class Grouped(Healthy):
    """Gives another result for a sequence that is alone."""

    def inputs(self, x):
        return {"gate": self.to_gate(x), "x": x / max(1, len(x))}


class PeeksFar(Healthy):
    """Sees what comes 20 time steps later."""

    def inputs(self, x):
        later = torch.cat([x[:, 20:], torch.zeros_like(x[:, :20])], 1)
        return {"gate": self.to_gate(later), "x": x}


class LooksFarBack(Healthy):
    """Sees what came 100 time steps before, of this call only."""

    def inputs(self, x):
        return {"gate": self.to_gate(torch.cat([torch.zeros_like(x[:, :100]), x[:, :-100]], 1)), "x": x}


class LeakySlope(Healthy):
    """Its value depends on nothing that comes later; its gradient says it does."""

    def inputs(self, x):
        total = x.sum(1, keepdim=True)
        return {"gate": self.to_gate(x), "x": x + total - total.detach()}


class OtherwiseCompiled(Healthy):
    """Is another function under PyTorch's own compiler."""

    def inputs(self, x):
        return {"gate": self.to_gate(x) + torch.compiler.is_compiling(), "x": x}


class LosesNaN(Shifted):
    """An engine that makes numbers of NaN."""

    @staticmethod
    def run(problem):
        rollout = loop.run(problem)
        return Rollout(torch.where(rollout.y.isnan(), 0, rollout.y), rollout.state)


class SaysWithheld(Healthy):
    """Says of an input that it does not reach the output, and it does."""

    withheld = {"x": "it is read before the output"}


class WithholdsMore(Healthy):
    """Its gate does not reach the output, and it says so of x only."""

    withheld = {"x": "the output is given before x is read"}

    def step(self, h, gate, x):
        return super().step(h, gate, x)[0], h


class ReadsMaskAhead(Healthy):
    """Reads what is given beside x before its time."""

    def inputs(self, x, *, mask):
        return super().inputs(x * mask.roll(-1, 1)[..., None])


class TellsTheWhole(Healthy):
    """Tells, beside its output, what only the whole sequence has."""

    def outputs(self, y, x):
        return y, {"mean": x.mean(1, keepdim=True).expand_as(x)}
