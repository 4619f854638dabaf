"""The tape network: a recurrent network that writes on a tape and moves along it, all by degrees."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class TapeRNN(Recurrence):
    """h_t = tanh(W x_t + b + R h_{t-1} + P m_{t-1}[0]),  a = softmax(A h_t + a_0): stay, left, right, jump left, right
    m' = m_{t-1} with D h_t + d at 0;  m_t[i] = sum_j a_j m'[i + move_j],  move = 0, 1, -1, jump, -jump,  y_t = h_t.

    Lane: the layer, h: [H], m: [tape, cell], a ring, the cell under the head first; `recurrent` is R, P side by side:
    [H, H + cell], `act` A, D: [5 + cell, H], with the bias a_0, d.

    Source: Neural Networks and the Chomsky Hierarchy, Delétang et al., 2022, arXiv:2207.02098. Departures: a jump is a
    number of cells given beforehand (there: the length of the input, which a stream does not know), and D is a matrix
    (there: a small network).
    """

    lane = Lane.LAYER
    paper = Paper("Neural Networks and the Chomsky Hierarchy", "Delétang et al.", 2022, "2207.02098")

    def __init__(self, width: int, hidden: int | None = None, tape: int = 16, cell: int = 8, jump: int = 5):
        super().__init__(width)
        H = self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.tape, self.cell = options.count("tape", tape), options.count("cell", cell)
        self.jump = options.count("jump", jump)
        self.to_hidden = Linear(width, H)
        bound = H**-0.5
        self.recurrent = nn.Parameter(torch.empty(H, H + cell).uniform_(-bound, bound))
        self.act = nn.Parameter(torch.empty(5 + cell, H).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(5 + cell))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.hidden), "m": torch.zeros(self.tape, self.cell)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": self.to_hidden(x)}

    def step(self, h: Tensor, m: Tensor, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        h = torch.tanh(x + self.recurrent @ torch.cat([h, m[0]]))
        acts = self.act @ h + self.bias
        written = torch.cat([acts[None, 5:], m[1:]])
        shares = torch.softmax(acts[:5], 0)
        moved = [torch.roll(written, -move, 0) for move in (0, 1, -1, self.jump, -self.jump)]
        m = sum(share * tape for share, tape in zip(shares, moved, strict=True))
        return (h, m), h
