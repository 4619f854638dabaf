"""What users of the library wrote: recurrences with something wrong, and sound ones that look odd."""

import math

import torch
from broken import Grouped, Healthy, LooksFarBack, PeeksFar, ReadsLength
from torch import nn

from recurra import Lane, Recurrence, constant
from recurra.problem import DeltaRule


# --- what users wrote, each with something wrong ------------------------------------------------------------------
class Level(Recurrence):
    """Root of the sum of squares, associative; those below say so wrongly."""

    lane = Lane.CHANNEL

    def start(self):
        return {"level": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, level, x):
        level = torch.sqrt(level * level + x * x + 1e-6)
        return level, x / level

    def combine(self, earlier, later):
        return (torch.sqrt(earlier[0] ** 2 + later[0] ** 2),)


class NotAssociative(Level):
    def combine(self, earlier, later):
        return (earlier[0] - later[0],)


class OfAnotherStep(Level):
    def combine(self, earlier, later):
        return (torch.maximum(earlier[0], later[0]),)


class Imprecise(Level):
    def combine(self, earlier, later):
        return (1.00001 * torch.sqrt(earlier[0] ** 2 + later[0] ** 2),)


class StartNotNeutral(Level):
    def start(self):
        return {"level": torch.ones(self.width)}


class Last(Level):
    """The last value but for small ones; associative, and not commutative."""

    def step(self, level, x):
        level = torch.where(x.abs() > 0.3, x, level)
        return level, level

    def combine(self, earlier, later):
        return (torch.where(later[0] == 0, earlier[0], later[0]),)


class Swapped(Last):
    def combine(self, earlier, later):
        return super().combine(later, earlier)


class Fading(Recurrence):
    """A matrix memory that fades; those below say so wrongly."""

    lane = Lane.HEAD

    def __init__(self, width):
        super().__init__(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.rate = nn.Parameter(torch.zeros(2))

    def start(self):
        size = self.width // 2
        return {"S": torch.zeros(2, size, size)}

    def inputs(self, x):
        q, k, v = (part.unflatten(-1, (2, -1)) for part in self.to_qkv(x).chunk(3, -1))
        return {"q": q, "k": k, "v": v, "log_decay": constant(-torch.exp(self.rate))}

    def step(self, S, q, k, v, log_decay):
        S = torch.exp(log_decay) * S + torch.outer(v, k)
        return S, S @ q

    def as_delta_rule(self, S, q, k, v, log_decay):
        return DeltaRule(q, k, v, S, log_decay=log_decay)


class OtherQuery(Fading):
    def as_delta_rule(self, S, q, k, v, log_decay):
        return DeltaRule(1.01 * q, k, v, S, log_decay=log_decay)


class OtherDecay(Fading):
    def as_delta_rule(self, S, q, k, v, log_decay):
        return DeltaRule(q, k, v, S, log_decay=1.001 * log_decay)


class KeysForValues(Fading):
    def as_delta_rule(self, S, q, k, v, log_decay):
        return DeltaRule(q, v, k, S, log_decay=log_decay)


class StateIgnored(Fading):
    def as_delta_rule(self, S, q, k, v, log_decay):
        return DeltaRule(q, k, v, torch.zeros_like(S), log_decay=log_decay)


class ValuesDetached(Fading):
    def as_delta_rule(self, S, q, k, v, log_decay):
        return DeltaRule(q, k, v.detach(), S, log_decay=log_decay)


COUNTED = [0]


class CountsInGlobal(Healthy):
    def step(self, h, gate, x):
        COUNTED[0] += 1
        return super().step(h, gate + math.sin(COUNTED[0]), x)


class CountsOnSelf(Healthy):
    calls = 0

    def step(self, h, gate, x):
        self.calls += 1
        return super().step(h, gate * self.calls, x)


class CountsInList(Healthy):
    def __init__(self, width):
        super().__init__(width)
        self.seen = []

    def step(self, h, gate, x):
        self.seen.append(0)
        return super().step(h, gate * len(self.seen), x)


class InputsCountInGlobal(Healthy):
    def inputs(self, x):
        COUNTED[0] += 1
        return {"gate": self.to_gate(x) + math.sin(COUNTED[0]), "x": x}


class InputsChangeBuffer(Healthy):
    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("mean", torch.zeros(width))

    def inputs(self, x):
        if x.numel():
            self.mean.mul_(0.9).add_(x.detach().mean((0, 1)))
        return {"gate": self.to_gate(x) - self.mean, "x": x}


class BatchMean(Healthy):
    def inputs(self, x):
        return {"gate": self.to_gate(x) - x.sum(0, keepdim=True) / max(1, len(x)), "x": x}


class RowNumber(Healthy):
    def inputs(self, x):
        return {"gate": self.to_gate(x) + torch.arange(len(x), dtype=x.dtype).view(-1, 1, 1), "x": x}


class TimeMean(Healthy):
    def inputs(self, x):
        return {"gate": self.to_gate(x) - x.sum(1, keepdim=True) / max(1, x.shape[1]), "x": x}


class TimeIndex(Healthy):
    def inputs(self, x):
        return {"gate": self.to_gate(x) + torch.arange(x.shape[1], dtype=x.dtype)[:, None], "x": x}


class RandomStart(Healthy):
    def start(self):
        return {"h": torch.randn(self.width)}


class Dropout(Healthy):
    def inputs(self, x):
        return {"gate": nn.functional.dropout(self.to_gate(x)), "x": x}


class DropoutInStep(Healthy):
    def step(self, h, gate, x):
        return super().step(nn.functional.dropout(h), gate, x)


class WrongBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ARG004
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad):
        return grad * (1 - ctx.saved_tensors[0])


class OwnBackward(Healthy):
    def step(self, h, gate, x):
        return super().step(h, gate, WrongBackward.apply(x))


class DetachesState(Healthy):
    def step(self, h, gate, x):
        return super().step(h.detach(), gate, x)


class InputsInPlace(Healthy):
    def inputs(self, x):
        return {"gate": self.to_gate(x), "x": x.mul_(0.5)}


class LeavesTensorOnSelf(Healthy):
    """Hands its gate over by an attribute: what a step reads there is one time step's or all, and no engine knows."""

    def inputs(self, x):
        self.last = x.flatten()[-1:].sum()
        return {"gate": self.to_gate(x), "x": x}

    def step(self, h, gate, x):
        return super().step(h, gate + self.last, x)


class Numpy(Healthy):
    def step(self, h, gate, x):
        return super().step(h, gate + torch.from_numpy(x.detach().cos().numpy()), x)


FLAWED = {
    "scan": [NotAssociative, OfAnotherStep, Imprecise, StartNotNeutral, Swapped],
    "chunkwise": [OtherQuery, OtherDecay, KeysForValues, StateIgnored, ValuesDetached],
    "loop": [
        CountsInGlobal, CountsOnSelf, CountsInList, InputsCountInGlobal, InputsChangeBuffer, BatchMean, RowNumber,
        Grouped, TimeMean, TimeIndex, PeeksFar, LooksFarBack, ReadsLength, RandomStart, Dropout, DropoutInStep,
        OwnBackward, DetachesState, InputsInPlace, LeavesTensorOnSelf, Numpy,
    ],
}  # fmt: skip
"""Engine on which it shows -> recurrences that a law rejects there."""


# --- what users wrote, and nothing wrong with it ------------------------------------------------------------------
class Predictor(Healthy):
    """The output is what is known before x is read."""

    withheld = {"x": "the output is given before x is read", "gate": "it is read with x"}

    def step(self, h, gate, x):
        return torch.tanh(h + torch.sigmoid(gate) * x), h


class Missing(Healthy):
    """A missing value (NaN) is replaced by the state."""

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        h = 0.9 * h + 0.1 * torch.where(torch.isnan(x), h, x)
        return h, h


class Viewed(Recurrence):
    """Cuts what it computes into four, whatever its size."""

    lane = Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.linear = nn.Linear(width, 4 * width)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        a, b, c, d = self.linear(h).view(4, -1).unbind(0)
        h = torch.tanh(a * b + c * d + x)
        return h, h


class Convolved(Viewed):
    def step(self, h, x):
        kernel = torch.ones(1, 1, 3, dtype=h.dtype)
        h = torch.tanh(x + nn.functional.conv1d(h[None, None], kernel, padding=1)[0, 0])
        return h, h


class Counter(Viewed):
    """Reads x at every third time step; the clock is a float."""

    def start(self):
        return {"h": torch.zeros(self.width), "t": torch.zeros(())}

    def step(self, h, t, x):
        now = t == 0
        h = torch.where(now, torch.tanh(h + x), h)
        t = torch.where(now, torch.full_like(t, 2.0), t - 1)
        return (h, t), h


class Covariance(Viewed):
    """Holds a symmetric matrix, of which a Cholesky factor reads one half."""

    def start(self):
        return {"P": torch.eye(self.width)}

    def step(self, P, x):
        bias = self.linear.bias[: self.width]
        P = 0.9 * P + torch.outer(bias, bias) + 0.1 * torch.eye(self.width, dtype=x.dtype)
        y = torch.cholesky_solve(x[:, None], torch.linalg.cholesky(P))[:, 0]
        return P, y


class Unstable(Viewed):
    """Grows without end, and makes much of a rounding."""

    def step(self, h, x):
        h = 1.5 * h + torch.sin(self.linear(h)[: self.width]) + x
        return h, h


class Chaotic(Viewed):
    """The logistic map: two bits more of difference at every second time step."""

    def step(self, h, x):
        h = torch.where(h == 0, torch.sigmoid(x), 3.9 * h * (1 - h))
        return h, h + self.linear(x)[: self.width]


class SRU(Recurrence):
    """Simple recurrent units (Lei et al., 2018)."""

    lane = Lane.CHANNEL

    def __init__(self, width):
        super().__init__(width)
        self.linear = nn.Linear(width, 3 * width)
        self.peep = nn.Parameter(torch.randn(2, width) * 0.3)

    def start(self):
        return {"c": torch.zeros(self.width)}

    def inputs(self, x):
        z, f, r = self.linear(x).chunk(3, -1)
        return {"x": x, "z": z, "f": f, "r": r, "to_f": constant(self.peep[0]), "to_r": constant(self.peep[1])}

    def step(self, c, x, z, f, r, to_f, to_r):
        f, r = torch.sigmoid(f + to_f * c), torch.sigmoid(r + to_r * c)
        c = f * c + (1 - f) * z
        return c, r * c + (1 - r) * x


SOUND = [
    Healthy,
    Predictor,
    Missing,
    Viewed,
    Convolved,
    Counter,
    Covariance,
    Unstable,
    Chaotic,
    SRU,
    Level,
    Fading,
    Last,
]


class Rounded(Healthy):
    """A hard gate whose gradient is passed straight through: by intent not the slope of its value."""

    def step(self, h, gate, x):
        z = torch.sigmoid(gate)
        z = z + (torch.floor(2 * z) - z).detach()
        h = h + z * (torch.tanh(x) - h)
        return h, h
