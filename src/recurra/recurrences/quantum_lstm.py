"""The quantum LSTM, simulated: the maps of its gates go through small variational circuits."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, compute_dtype, constant
from recurra.recurrence import Paper, Recurrence


class QuantumLSTM(Recurrence):
    """v = W x_t + b + U h_{t-1}: [n];  q_k = <Z> of circuit k on v: [n],  i, f, g, o of V q_k + b_v
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),  h_t = sigmoid(o) tanh(c_t),  y_t = h_t.

    Lane: the layer, h and c: [H]. A circuit of n = `qubits` (6 at most) turns each of them from |0> by RX(v_i), then in
    each of `depth` layers by RX(angle), angles: [depth, 4, n], followed by a ring of CNOTs, each qubit controlling the
    next; <Z> is P(0) - P(1) of each. All 2^n amplitudes are computed exactly; what is trained of a circuit is one
    unitary matrix for all time steps.

    Source: Quantum Long Short-Term Memory, Chen, Yoo, Fang, 2020, arXiv:2009.01783. Departures: one map into the
    circuits and one out of them for all gates, RX alone, and neighbours entangled once, as common implementations have
    it; the paper encodes by RY and RZ of arctan and ends in two further circuits.
    """

    lane = Lane.LAYER
    paper = Paper("Quantum Long Short-Term Memory", "Chen, Yoo, Fang", 2020, "2009.01783")

    def __init__(self, width: int, hidden: int | None = None, qubits: int = 3, depth: int = 1):
        super().__init__(width)
        H = self.hidden = width if hidden is None else options.count("hidden", hidden)
        n = self.qubits = options.count("qubits", qubits, 7)
        bound = H**-0.5
        self.to_angles = Linear(width, n)
        self.recurrent = nn.Parameter(torch.empty(n, H).uniform_(-bound, bound))
        self.angles = nn.Parameter(torch.empty(options.count("depth", depth, 101), 4, n).uniform_(0, 2 * math.pi))
        self.outward = nn.Parameter(torch.empty(H, n).uniform_(-(n**-0.5), n**-0.5))
        self.bias = nn.Parameter(torch.zeros(H))
        bits = torch.arange(2**n)[:, None] >> torch.arange(n).flip(0) & 1
        self.signs = nn.Buffer((1 - 2 * bits).to(self.bias.dtype))  # of Z in each basis state

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.hidden), "c": torch.zeros(self.hidden)}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        return {"x": self.to_angles(x), "circuits": constant(self._circuits(compute_dtype(x.dtype)))}

    def step(self, h: Tensor, c: Tensor, x: Tensor, circuits: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        v = (x + self.recurrent @ h) / 2
        sizes = torch.ones_like(v[:1])  # of the amplitudes of RX(v)|0...0>
        for cos, sin in zip(torch.cos(v), torch.sin(v), strict=True):
            sizes = torch.stack([cos * sizes, sin * sizes], 1).reshape(-1)
        likely = (circuits @ sizes).reshape(4, 2, -1).square().sum(1)
        i, f, g, o = likely @ self.signs @ self.outward.T + self.bias
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h, c), h

    def _circuits(self, dtype: torch.dtype) -> Tensor:
        """What the trained part of each circuit makes of amplitudes whose phases are those after RX: [4 2 2^n, 2^n],
        for each circuit the real parts, then the imaginary ones."""
        n = self.qubits
        ones = (1 - self.signs.to(dtype)).sum(1) / 2
        phases = torch.polar(torch.ones_like(ones), -math.pi / 2 * ones)  # RX(v)|0> = cos |0> - i sin |1>
        state = torch.diag(phases).reshape(1, *[2] * n, -1)
        for angles in self.angles.to(dtype) / 2:
            for q in range(n):
                cos, sin = (part(angles[:, q]).reshape(4, *[1] * (n + 1)) for part in (torch.cos, torch.sin))
                state = cos * state - 1j * sin * state.flip(q + 1)
            for q in range(n if n > 2 else n - 1):
                control, target = q + 1, (q + 1) % n + 1
                off, on = state.unbind(control)
                state = torch.stack([off, on.flip(target - (target > control))], control)
        return torch.stack([state.real, state.imag], 1).reshape(-1, 2**n)
