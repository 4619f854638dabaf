"""RWKV-4's channel mixing: a gated MLP that also sees the time step before."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import relu_squared
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class RWKV4ChannelMix(Recurrence):
    """h_t = x_t; the result is sigmoid(W_r r_t) * W_v relu(W_k k_t)^2.

    Lane: a channel, h is a number. k and r are mixes mu x_t + (1 - mu) h_{t-1}, each with its own mu: [D]. W_k: [E, D],
    W_v: [D, E], W_r: [D, D], E = `hidden`, 4 D by default.
    Initialisation: mu as the authors' code sets it in the first block.

    Source: RWKV: Reinventing RNNs for the Transformer Era, Peng, Alcaide, Anthony et al., 2023, arXiv:2305.13048.
    """

    lane = Lane.CHANNEL
    paper = Paper("RWKV: Reinventing RNNs for the Transformer Era", "Peng, Alcaide et al.", 2023, "2305.13048")

    def __init__(self, width: int, hidden: int | None = None):
        super().__init__(width)
        hidden = 4 * width if hidden is None else options.count("hidden", hidden)
        channel = torch.arange(width) / width
        self.mix_k, self.mix_r = nn.Parameter(channel.clone()), nn.Parameter(channel.clone())
        self.to_k = Linear(width, hidden, bias=False)
        self.to_r = Linear(width, width, bias=False)
        self.to_v = Linear(hidden, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, h

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        change = x - y
        k, r = (torch.addcmul(y, mu.to(x.dtype), change) for mu in (self.mix_k, self.mix_r))
        return torch.sigmoid(self.to_r(r)) * self.to_v(relu_squared(self.to_k(k)))
