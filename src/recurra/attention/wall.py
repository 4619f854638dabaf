"""Wall attention: softmax attention in which every channel of a key fades by gates of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from recurra import options
from recurra.attention.moving import Chunks, MovingKeys
from recurra.contract import Paper
from recurra.nn.linear import Linear
from recurra.problem import Lane, cast, compute_dtype
from recurra.windows import Past


class WallAttention(MovingKeys):
    """y_t = sum_i softmax_i(q_t . (f_{i+1} * ... * f_t * k_i) / sqrt(K)) v_i over i = 1..t
    f_t = sigmoid(W_f x_t + b).

    Lane: a head; keys: [S, K], which hold f_{i+1} * ... * f_t * k_i, and values: [S, K], K = D / heads; q, k, v: [K],
    linear in x, f: [K]. The result is W_o y, with `gated` W_o (sigmoid(W_g x) * y). Initialisation: b = 8, so that
    little is forgotten.

    Source: Wall Attention: Length Generalization With Diagonal Gates, Averbuch, Pai, 2026, a publication of Tilde
    Research without arXiv id, as in its authors' code in flash-linear-attention.
    """

    lane = Lane.HEAD
    paper = Paper("Wall Attention: Length Generalization With Diagonal Gates", "Averbuch, Pai", 2026)
    moves = ("log_decay",)
    chunk = 32

    def __init__(self, width: int, heads: int = 4, gated: bool = False):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.size = width // heads
        self.to_query, self.to_key, self.to_value = (Linear(width, width, bias=False) for _ in range(3))
        self.to_decay = Linear(width, width)
        nn.init.constant_(self.to_decay.bias, 8.0)
        self.to_output_gate = Linear(width, width, bias=False) if options.flag("gated", gated) else None
        self.to_output = Linear(width, width, bias=False)

    def start(self, like: Tensor) -> dict[str, Tensor]:
        values = like.new_zeros(self.heads, 0, self.size)
        return {"keys": values.to(compute_dtype(like.dtype)), "values": values}  # keys change at every time step

    def inputs(self, x: Tensor, position: Tensor, past: Past) -> dict[str, Tensor]:  # noqa: ARG002
        decay = logsigmoid(cast(self.to_decay(x), compute_dtype(x.dtype)))
        parts = {"q": self.to_query(x), "k": self.to_key(x), "v": self.to_value(x), "log_decay": decay}
        return {name: part.unflatten(-1, (self.heads, -1)) for name, part in parts.items()}

    def step(
        self, keys: Tensor, values: Tensor, present: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        keys, values = torch.cat([keys * torch.exp(log_decay), k[None]]), torch.cat([values, v[None]])
        seen = pad(present, (0, 1), value=True)
        scores = torch.where(seen, keys @ q * self.size**-0.5, float("-inf"))
        return (keys, values), torch.softmax(scores, -1) @ values

    def chunks(self, q: Tensor, k: Tensor, *moves: Tensor) -> Chunks:
        total = moves[0].cumsum(-2)
        later = torch.ones(2 * [k.shape[-2]], dtype=torch.bool, device=k.device).tril()[..., None]
        since = torch.exp(torch.where(later, total[..., :, None, :] - total[..., None, :, :], float("-inf")))
        left = torch.exp(total)
        return Chunks(
            q=q * left,
            k=k * since[..., -1, :, :],
            scores=(q[..., :, None, :] * k[..., None, :, :] * since).sum(-1),
            back=lambda q, i: q * left[:, :, i, -1:],
        )

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        y = y.flatten(2)
        return self.to_output(y if self.to_output_gate is None else torch.sigmoid(self.to_output_gate(x)) * y)
