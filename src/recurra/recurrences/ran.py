"""The recurrent additive network: an LSTM whose content does not see the state."""

import torch
from torch import Tensor

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class RAN(Cell):
    """i_t, f_t = sigmoid(W x_t + b + U h_{t-1}),  c_t = i_t (W_c x_t + b_c) + f_t c_{t-1}
    h_t = tanh(c_t),  y_t = h_t.

    Lane: the layer, h and c: [H], of which h = tanh(c) is not kept; `recurrent` is U_i, U_f.

    Source: Recurrent Additive Networks, Lee, Levy, Zettlemoyer, 2017, arXiv:1705.07393. There b_c is zero.
    """

    lane = Lane.LAYER
    paper = Paper("Recurrent Additive Networks", "Lee, Levy, Zettlemoyer", 2017, "1705.07393")
    gates, products = 3, 2
    states = ("c",)

    def step(self, c: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        content, gates = x[: self.hidden], x[self.hidden :]
        i, f = torch.sigmoid(gates + self.recurrent @ torch.tanh(c)).chunk(2)
        c = i * content + f * c
        return c, torch.tanh(c)
