"""RWKV-4's time mixing: an average of values that decays, weighted by exponentials of keys."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, compute_dtype, constant
from recurra.recurrence import Paper, Recurrence, in_type_of
from recurra.windows import Past


class RWKV4(Recurrence):
    """y_t = (a_{t-1} + e^{u + k_t} v_t) / (b_{t-1} + e^{u + k_t})
    a_t = e^{-w} a_{t-1} + e^{k_t} v_t,  b_t = e^{-w} b_{t-1} + e^{k_t},  w = exp(w~).

    Lane: a channel; a and b are numbers, and so are u, w~, k_t, v_t. The state holds a / e^p and b / e^p with p the
    largest exponent in them, which keeps them from overflowing; it starts empty, with b = 0. Each of k, v, r reads its
    own mix mu x_t + (1 - mu) x_{t-1}, mu: [D]: k = W_k x, v = W_v x, r = W_r x, E = `hidden` channels each, D by
    default. The result is W_o (sigmoid(r_t) * y_t).
    Initialisation: mu, w~ and u as the authors' code sets them in the first block.

    Source: RWKV: Reinventing RNNs for the Transformer Era, Peng, Alcaide, Anthony et al., 2023, arXiv:2305.13048.
    """

    lane = Lane.CHANNEL
    paper = Paper("RWKV: Reinventing RNNs for the Transformer Era", "Peng, Alcaide et al.", 2023, "2305.13048")

    def __init__(self, width: int, hidden: int | None = None):
        super().__init__(width)
        hidden = self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.windows = {"shift": (width, 1)}
        channel = torch.arange(width) / width
        self.mix_k, self.mix_v, self.mix_r = (nn.Parameter(channel**power) for power in (1.0, 1.0, 0.5))
        self.to_k, self.to_v, self.to_r = (Linear(width, hidden, bias=False) for _ in range(3))
        self.to_output = Linear(hidden, width, bias=False)
        self.decay = nn.Parameter(8 * torch.linspace(0, 1, hidden) ** 0.7 - 5)
        self.first = nn.Parameter(math.log(0.3) + ((torch.arange(hidden) + 1) % 3 - 1) / 2)

    def start(self) -> dict[str, Tensor]:
        zero = torch.zeros(self.hidden)
        return {"a": zero, "b": zero, "p": zero}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        # Which of k and p is larger decides where gradients go, so k is not rounded to half types on the way.
        real = compute_dtype(x.dtype)
        of_now = torch.stack([self.mix_k, self.mix_v, self.mix_r])
        k, v, r = past.mix("shift", x.to(real), 1 - of_now.to(real))
        return {
            "k": in_type_of(k, self.to_k),
            "v": self.to_v(v.to(x.dtype)),
            "r": self.to_r(r.to(x.dtype)),
            "first": constant(self.first),
            "decay": constant(self.decay),
        }

    def step(
        self, a: Tensor, b: Tensor, p: Tensor, k: Tensor, v: Tensor, r: Tensor, first: Tensor, decay: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        # An empty state (b = 0) takes the first exponent as its own: e^k alone may vanish beside e^0.
        p = torch.where(b == 0, k, p)
        top = torch.maximum(p, first + k)
        old, new = torch.exp(p - top), torch.exp(first + k - top)
        y = (old * a + new * v) / (old * b + new)
        kept = p - torch.exp(decay)
        top = torch.maximum(kept, k)
        old, new = torch.exp(kept - top), torch.exp(k - top)
        return (old * a + new * v, old * b + new, top), torch.sigmoid(r) * y

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y)
