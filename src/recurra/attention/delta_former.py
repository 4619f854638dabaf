"""DeltaFormer: attention over values from which what is known already was taken out, as the delta rule does."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from recurra import options
from recurra.attention import cache, rope
from recurra.attention.base import Attention, Call
from recurra.attention.corrections import before, corrected
from recurra.attention.softmax import attend
from recurra.contract import Paper
from recurra.engines.gate import without_autocast
from recurra.nn.linear import Linear
from recurra.problem import Lane, cast, compute_dtype
from recurra.windows import Past


class DeltaFormer(Attention):
    """u_t = v_t - b_t sum_i softmax_i(q_t . k_i / sqrt(K)) u_i over i = 1..t-1
    y_t = sum_i softmax_i(q_t . k_i / sqrt(K)) u_i over i = 1..t.

    Lane: a head; keys: [S, K], and values: [S, K], which hold u, K = D / heads; q, k, v: [K], linear in x, and
    b = sigmoid(w_b x + c), a number. q and k turn by RoPE (`rope.py`). The result is W_o y.

    Source: Understanding Transformer from the Perspective of Associative Memory, Zhong, Xu, Ao, Shi, 2025,
    arXiv:2505.19488, as in flash-linear-attention, where q asks for both sums. Departure: there b is not brought
    between 0 and 1 by the layer; beyond 1 corrections may grow without end.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Understanding Transformer from the Perspective of Associative Memory", "Zhong, Xu, Ao, Shi", 2025, "2505.19488"
    )

    def __init__(self, width: int, heads: int = 4, base: float = 10000.0):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.size, self.base = width // heads, options.number("base", base, 1)
        self.to_query, self.to_key, self.to_value = (Linear(width, width, bias=False) for _ in range(3))
        self.to_rate = Linear(width, heads)
        self.to_output = Linear(width, width, bias=False)

    def start(self, like: Tensor) -> dict[str, Tensor]:
        empty = like.new_zeros(self.heads, 0, self.size)
        return {"keys": empty, "values": empty}

    def kept(self, position: Tensor) -> Tensor:
        return position

    def inputs(self, x: Tensor, position: Tensor, past: Past) -> dict[str, Tensor]:  # noqa: ARG002
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)) for to in (self.to_query, self.to_key, self.to_value))
        turn = rope.angles(position, self.size // 2 * 2, self.base, compute_dtype(x.dtype))
        cos, sin = (part[:, :, None] for part in turn)
        rate = torch.sigmoid(cast(self.to_rate(x), compute_dtype(x.dtype)))
        return {"q": rope.rotate(q, cos, sin), "k": rope.rotate(k, cos, sin), "v": v, "rate": rate}

    def step(
        self, keys: Tensor, values: Tensor, present: Tensor, q: Tensor, k: Tensor, v: Tensor, rate: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        u = v - rate * before(keys @ q * self.size**-0.5, present) @ values
        keys, values = torch.cat([keys, k[None]]), torch.cat([values, u[None]])
        return (keys, values), before(keys @ q * self.size**-0.5, pad(present, (0, 1), value=True)) @ values

    def parallel(self, call: Call) -> tuple[Tensor, dict[str, Tensor]]:
        held, keys = call.state["values"], cache.extend(call.state["keys"], call.inputs["k"])
        q, v, rate = (call.inputs[name].transpose(1, 2) for name in ("q", "v", "rate"))
        d = rate.dtype
        with without_autocast(keys.device):
            u = corrected(q.to(d), keys.to(d), held.to(d), v.to(d), rate, call.position, self.size**-0.5)
        values = torch.cat([held, u.to(held.dtype)], 2)
        y = attend(q.to(keys.dtype), keys, values, call.position + 1, whole=call.whole)
        stop = keys.shape[2] - call.position.shape[1] + call.ends
        new = {"keys": cache.newest(keys, stop, call.last), "values": cache.newest(values, stop, call.last)}
        return y.transpose(1, 2), new

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))
