"""The GRU, with one recurrent matrix per head; with one head, the parameters of `torch.nn.GRU`."""

import torch
from torch import Tensor

from recurra import options
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper
from recurra.recurrences.gated import GatedNetwork


class GRU(GatedNetwork):
    """r, z = sigmoid(W_i x_t + b_i + W_h h_{t-1} + b_h),  n = tanh(W_in x_t + b_in + r (W_hn h_{t-1} + b_hn))
    h_t = (1 - z) n + z h_{t-1},  y_t = h_t.

    Lane: a head, h: [H/heads]; W_hh: [3 H, H/heads], one block of rows per head. The reset gate acts after the
    product, as in `torch.nn.GRU` and cuDNN; with `reset` "before" it acts before, as in the paper and in Keras with
    reset_after=False: n = tanh(W_in x_t + b_in + b_hn + W_hn (r h_{t-1})). With one head (the default) parameters are
    named and laid out as in a one-layer `torch.nn.GRU`; Keras has the gates in the order z, r, n, matrices transposed.

    Source: Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation, Cho et al.,
    2014, arXiv:1406.1078.
    """

    lane = Lane.HEAD
    paper = Paper("Learning Phrase Representations using RNN Encoder-Decoder", "Cho et al.", 2014, "1406.1078")
    gates = 3

    def __init__(self, width: int, hidden: int | None = None, heads: int = 1, reset: str = "after"):
        super().__init__(width, hidden, heads)
        self.reset = options.choice("reset", reset, ("after", "before"))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.heads, self.hidden // self.heads)}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        return {
            "gates": self.project(x, self.bias_ih_l0),
            "weight": constant(self.head_weights()),
            "bias": constant(self.bias_hh_l0.unflatten(0, (self.heads, -1))),
        }

    def step(self, h: Tensor, gates: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        if self.reset == "before":
            return self._reset_before(h, gates + bias, weight)
        ir, iz, candidate = gates.chunk(3)
        hr, hz, hidden = (weight @ h + bias).chunk(3)
        z = torch.sigmoid(iz + hz)
        n = torch.tanh(candidate + torch.sigmoid(ir + hr) * hidden)
        h = n + z * (h - n)
        return h, h

    def _reset_before(self, h: Tensor, gates: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        r, z, n = gates.chunk(3)
        to_r, to_z, to_n = weight.chunk(3)
        n = torch.tanh(n + to_n @ (torch.sigmoid(r + to_r @ h) * h))
        h = n + torch.sigmoid(z + to_z @ h) * (h - n)
        return h, h
