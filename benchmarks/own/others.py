"""Recurrences of the literature that are neither gated cells nor memories: oscillators, state spaces, spikes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.own.written import Written, batch_of, loop
from recurra import Lane, Linear, constant, shared


class CoRNN(Written):
    """Coupled oscillators, damped and driven. Source: Coupled Oscillatory Recurrent Neural Network, Rusch, Mishra,
    2020, arXiv:2010.00951."""

    title, lane = "coRNN", Lane.LAYER

    def __init__(self, width, dt=0.05, stiffness=2.0, damping=1.0):
        super().__init__(width)
        self.dt, self.stiffness, self.damping = dt, stiffness, damping
        self.from_x = Linear(width, width)
        self.from_state = Linear(2 * width, width, bias=False)

    def start(self):
        return {"y": torch.zeros(self.width), "z": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, y, z, x):
        driven = torch.tanh(x + self.from_state(torch.cat([y, z], -1)))
        z = z + self.dt * (driven - self.stiffness * y - self.damping * z)
        y = y + self.dt * z
        return (y, z), y


class LEM(Written):
    """Two states with time scales of their own. Source: Long Expressive Memory for Sequence Modeling, Rusch, Mishra,
    Erichson, Mahoney, 2021, arXiv:2110.04744."""

    title, lane = "LEM", Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.from_x = Linear(width, 4 * width)
        self.from_y = Linear(width, 3 * width, bias=False)
        self.from_z = Linear(width, width, bias=False)

    def start(self):
        return {"y": torch.zeros(self.width), "z": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, y, z, x):
        slow, fast, to_z, to_y = x.chunk(4, -1)
        of_slow, of_fast, of_z = self.from_y(y).chunk(3, -1)
        z = z + torch.sigmoid(slow + of_slow) * (torch.tanh(to_z + of_z) - z)
        y = y + torch.sigmoid(fast + of_fast) * (torch.tanh(to_y + self.from_z(z)) - y)
        return (y, z), y


class IndRNN(Written):
    """Every channel alone. Source: Independently Recurrent Neural Network, Li, Li, Cook, Zhu, Gao, 2018,
    arXiv:1803.04831."""

    title, lane = "IndRNN", Lane.CHANNEL

    def __init__(self, width):
        super().__init__(width)
        self.from_x = Linear(width, width)
        self.weight = nn.Parameter(torch.rand(width))

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x), "weight": constant(self.weight)}

    def step(self, h, x, weight):
        h = torch.relu(x + weight * h)
        return h, h


class Clockwork(Written):
    """Modules that move every 1, 2, 4 and 8 time steps; each reads itself and the slower ones.

    Source: A Clockwork RNN, Koutnik, Greff, Gomez, Schmidhuber, 2014, arXiv:1402.3511.
    """

    title, lane = "clockwork RNN", Lane.LAYER

    def __init__(self, width, modules=4):
        super().__init__(width)
        self.from_x = Linear(width, width)
        self.weight = nn.Parameter(torch.randn(width, width) * width**-0.5)
        module = torch.arange(width) * modules // width
        self.register_buffer("period", 2.0**module)
        self.register_buffer("reads", module[None] >= module[:, None])

    def start(self):
        return {"h": torch.zeros(self.width), "t": torch.zeros(())}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, h, t, x):
        new = torch.tanh(x + (self.weight * self.reads) @ h)
        h = torch.where(t % self.period == 0, new, h)
        return (h, t + 1), h

    def by_hand(self, x):
        weight, h, ys = self.weight * self.reads, x.new_zeros(len(x), self.width), []
        for t, now in enumerate(self.from_x(x).unbind(1)):
            h = torch.where(t % self.period == 0, torch.tanh(now + h @ weight.T), h)
            ys.append(h)
        return torch.stack(ys, 1)


class UnitaryRNN(Written):
    """A complex state turned by phases and mirrored at vectors, both unitary, then a modReLU.

    Source: Unitary Evolution Recurrent Neural Networks, Arjovsky, Shah, Bengio, 2015, arXiv:1511.06464; without its
    Fourier transforms.
    """

    title, lane = "unitary RNN", Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        size = width // 2
        self.from_x = Linear(width, width)
        self.phases = nn.Parameter(6 * torch.rand(2, size))
        self.mirrors = nn.Parameter(torch.randn(2, 2, size))
        self.bias = nn.Parameter(0.1 * torch.randn(size))

    def start(self):
        return {"h": torch.full((self.width // 2,), 0.1, dtype=torch.complex64)}

    def inputs(self, x):
        return {"x": torch.complex(*self.from_x(x).chunk(2, -1))}

    def step(self, h, x):
        for phase, (real, imaginary) in zip(self.phases, self.mirrors, strict=True):
            v = torch.complex(real, imaginary)
            h = torch.polar(torch.ones_like(phase), phase) * h
            h = h - 2 * v * (v.conj() * h).sum(-1, keepdim=True) / v.abs().square().sum()
        h = h + x
        size = h.abs()
        h = h * torch.relu(size + self.bias) / (size + 1e-5)
        return h, torch.cat([h.real, h.imag], -1)


class AntisymmetricRNN(Written):
    """A stable differential equation by Euler's method. Source: AntisymmetricRNN: A Dynamical System View on Recurrent
    Neural Networks, Chang, Chen, Haber, Chi, 2019, arXiv:1902.09689."""

    title, lane = "antisymmetric RNN", Lane.LAYER

    def __init__(self, width, epsilon=0.1, gamma=0.01):
        super().__init__(width)
        self.epsilon, self.gamma = epsilon, gamma
        self.from_x = Linear(width, width)
        self.weight = nn.Parameter(torch.randn(width, width) * width**-0.5)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, h, x):
        pulled = F.linear(h, self.weight - self.weight.T) - self.gamma * h
        h = h + self.epsilon * torch.tanh(pulled + x)
        return h, h


class EchoState(Written):
    """A fixed random network of which the readout alone is trained. Source: The "echo state" approach to analysing and
    training recurrent neural networks, Jaeger, 2001."""

    title, lane = "echo state network", Lane.LAYER

    def __init__(self, width, leak=0.3):
        super().__init__(width)
        self.leak = leak
        self.register_buffer("from_x", torch.randn(width, width) * width**-0.5)
        self.register_buffer("from_h", 0.9 * torch.randn(width, width) * width**-0.5)
        self.read = Linear(width, width)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x @ self.from_x}

    def step(self, h, x):
        h = h + self.leak * (torch.tanh(x + h @ self.from_h) - h)
        return h, h

    def outputs(self, y, x):  # noqa: ARG002
        return self.read(y)


class ComplexSSM(Written):
    """Mamba's step with complex states. Source: Mamba: Linear-Time Sequence Modeling with Selective State Spaces, Gu,
    Dao, 2023, arXiv:2312.00752."""

    title, lane = "selective state space, complex", Lane.CHANNEL

    def __init__(self, width, states=8):
        super().__init__(width)
        self.log_decay = nn.Parameter(torch.randn(width, states))
        self.turn = nn.Parameter(torch.randn(width, states))
        self.to_dt = Linear(width, width)
        self.to_BC = Linear(width, 4 * states)
        self.skip = nn.Parameter(torch.ones(width))

    def start(self):
        return {"h": torch.zeros(*self.turn.shape, dtype=torch.complex64)}

    def inputs(self, x):
        B, B_, C, C_ = self.to_BC(x).chunk(4, -1)
        A = torch.complex(-torch.exp(self.log_decay), self.turn)
        B, C = torch.complex(B, B_), torch.complex(C, C_)
        return {"x": x, "dt": F.softplus(self.to_dt(x)), "A": constant(A), "skip": constant(self.skip),
                "B": shared(B), "C": shared(C)}  # fmt: skip

    def step(self, h, x, dt, A, skip, B, C):
        h = torch.exp(dt * A) * h + dt * x * B
        return h, (C * h).sum(-1).real + skip * x

    def by_hand(self, x):
        read = {name: getattr(entry, "tensor", entry) for name, entry in self.inputs(x).items()}

        def step(h, x, dt, B, C):
            dt = dt[..., None]
            h = torch.exp(dt * read["A"]) * h + dt * x[..., None] * B[:, None]
            return h, (C[:, None] * h).sum(-1).real + self.skip * x

        return loop(step, batch_of(self, x)[0], *(read[name] for name in ("x", "dt", "B", "C")))


class SmoothSpikes(Written):
    """Leaky neurons whose spike is a steep sigmoid. Source: Surrogate Gradient Learning in Spiking Neural Networks,
    Neftci, Mostafa, Zenke, 2019, arXiv:1901.09948."""

    title, lane = "leaky neurons, smooth spikes", Lane.CHANNEL

    def __init__(self, width):
        super().__init__(width)
        self.from_x = Linear(width, width)
        self.leak = nn.Parameter(torch.randn(width))

    def start(self):
        return {"u": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x), "leak": constant(torch.sigmoid(self.leak))}

    def step(self, u, x, leak):
        u = leak * u + (1 - leak) * x
        s = torch.sigmoid(10 * (u - 1))
        return u - s, s


RECURRENCES = [CoRNN, LEM, IndRNN, Clockwork, UnitaryRNN, AntisymmetricRNN, EchoState, ComplexSSM, SmoothSpikes]
