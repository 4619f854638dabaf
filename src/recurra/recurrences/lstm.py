"""The LSTM, with one recurrent matrix per head; with one head, the parameters of `torch.nn.LSTM`."""

import torch
from torch import Tensor

from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper
from recurra.recurrences.gated import GatedNetwork


class LSTM(GatedNetwork):
    """i, f, o = sigmoid(.), g = tanh(.) of W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
    c_t = f c_{t-1} + i g,  h_t = o tanh(c_t),  y_t = h_t.

    Lane: a head, h and c: [H/heads]; W_hh: [4 H, H/heads], one block of rows per head. With one head (the default)
    parameters are named and laid out as in a one-layer `torch.nn.LSTM`.

    Source: Long Short-Term Memory, Hochreiter, Schmidhuber, 1997, Neural Computation 9; with the forget gate of
    Gers, Schmidhuber, Cummins, 2000.
    """

    lane = Lane.HEAD
    paper = Paper("Long Short-Term Memory", "Hochreiter, Schmidhuber", 1997)
    gates = 4

    def start(self) -> dict[str, Tensor]:
        zero = torch.zeros(self.heads, self.hidden // self.heads)
        return {"h": zero, "c": zero}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        gates = self.project(x, self.bias_ih_l0 + self.bias_hh_l0)
        return {"gates": gates, "weight": constant(self.head_weights())}

    def step(self, h: Tensor, c: Tensor, gates: Tensor, weight: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        i, f, g, o = (gates + weight @ h).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h, c), h
