"""The vanilla LSTM with peepholes, and the eight variants of it that the Search Space Odyssey compared."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell

VARIANTS = ("vanilla", "NIG", "NFG", "NOG", "NIAF", "NOAF", "CIFG", "NP", "FGR")


class OdysseyLSTM(Cell):
    """i, f, o = sigmoid(.), z = g(.) of W x_t + b + R y_{t-1}, and for i and f + p c_{t-1}, for o + p_o c_t
    c_t = z i + c_{t-1} f,  y_t = h(c_t) o,  g = h = tanh.

    Lane: the layer, y and c: [H]; `recurrent` is R_z, R_i, R_f, R_o, `peepholes` p_i, p_f, p_o: [3, H]. A `variant`
    differs from the vanilla LSTM in one thing, and has all its parameters, used or not:
    NIG i = 1 (no input gate);  NFG f = 1 (no forget gate);  NOG o = 1 (no output gate);
    NIAF g(a) = a (no input activation function);  NOAF h(a) = a (no output activation function);
    CIFG f = 1 - i (coupled input and forget gate);  NP p = 0 (no peepholes);
    FGR i, f, o also see i_{t-1}, f_{t-1}, o_{t-1} by `gate_recurrent`: [3 H, 3 H] (full gate recurrence), which are
    states then.

    Source: LSTM: A Search Space Odyssey, Greff, Srivastava, Koutník, Steunebrink, Schmidhuber, 2015, arXiv:1503.04069.
    """

    lane = Lane.LAYER
    paper = Paper("LSTM: A Search Space Odyssey", "Greff et al.", 2015, "1503.04069")
    gates, products = 4, 4

    def __init__(self, width: int, hidden: int | None = None, variant: str = "vanilla"):
        super().__init__(width, hidden)
        self.variant = options.choice("variant", variant, VARIANTS)
        self.peepholes = nn.Parameter(torch.zeros(3, self.hidden))
        if variant == "FGR":
            bound, size = self.hidden**-0.5, 3 * self.hidden
            self.gate_recurrent = nn.Parameter(torch.empty(size, size).uniform_(-bound, bound))

    def start(self) -> dict[str, Tensor]:
        states = {"y": torch.zeros(self.hidden), "c": torch.zeros(self.hidden)}
        return states | ({"open": torch.zeros(3 * self.hidden)} if self.variant == "FGR" else {})

    def step(self, y: Tensor, c: Tensor, *before: Tensor, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        z, i, f, o = (x + self.recurrent @ y).chunk(4)
        see_i, see_f, see_o = (0, 0, 0) if self.variant == "NP" else self.peepholes
        if before:
            i, f, o = (torch.cat([i, f, o]) + self.gate_recurrent @ before[0]).chunk(3)
        z = z if self.variant == "NIAF" else torch.tanh(z)
        i = torch.ones_like(z) if self.variant == "NIG" else torch.sigmoid(i + see_i * c)
        f = torch.ones_like(z) if self.variant == "NFG" else torch.sigmoid(f + see_f * c)
        c = z * i + c * (1 - i if self.variant == "CIFG" else f)
        o = torch.ones_like(z) if self.variant == "NOG" else torch.sigmoid(o + see_o * c)
        y = (c if self.variant == "NOAF" else torch.tanh(c)) * o
        return ((y, c, torch.cat([i, f, o])) if before else (y, c)), y
