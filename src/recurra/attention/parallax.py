"""Parallax: softmax attention as a local linear regression, with a second query in the place of its solution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from recurra import options
from recurra.attention import cache, rope
from recurra.attention.base import Attention, Call
from recurra.attention.softmax import attend
from recurra.contract import Paper
from recurra.nn.linear import Linear
from recurra.problem import Lane, compute_dtype
from recurra.windows import Past


class Parallax(Attention):
    """y_t = sum_i p_i (1 - r_t . (k_i - m_t)) v_i,  m_t = sum_i p_i k_i,  p = softmax_i(q_t . k_i / sqrt(K))
    over i = 1..t, or over i = t - window + 1..t with a `window`.

    So from the mean of the values their covariance with r . k is taken. Lane: a key head with the G = heads / key_heads
    query heads that read it; keys, values: [S, K], q, r: [G, K], K = D / heads; all of them linear in x. q, k and r
    turn by RoPE (`rope.py`). The result is W_o y.

    Source: Parallax: Parameterized Local Linear Attention for Language Modeling, Zuo, Pai, Zeng, Dewulf, Hu, Wang,
    2026, arXiv:2605.29157.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Parallax: Parameterized Local Linear Attention for Language Modeling", "Zuo, Pai, Zeng, Dewulf, Hu, Wang",
        2026, "2605.29157",
    )  # fmt: skip

    def __init__(
        self, width: int, heads: int = 4, key_heads: int | None = None, window: int | None = None, base: float = 10000.0
    ):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.key_heads = heads if key_heads is None else options.divisor("key_heads", key_heads, heads, "heads")
        self.size, self.base = width // heads, options.number("base", base, 1)
        self.window = None if window is None else options.count("window", window)
        self.to_query, self.to_probe, self.to_output = (Linear(width, width, bias=False) for _ in range(3))
        self.to_key, self.to_value = (Linear(width, self.key_heads * self.size, bias=False) for _ in range(2))

    @property
    def endless(self) -> bool:
        return self.window is None

    def start(self, like: Tensor) -> dict[str, Tensor]:
        empty = like.new_zeros(self.key_heads, 0, self.size)
        return {"keys": empty, "values": empty}

    def kept(self, position: Tensor) -> Tensor:
        return position if self.window is None else position.clamp(max=self.window - 1)

    def inputs(self, x: Tensor, position: Tensor, past: Past) -> dict[str, Tensor]:  # noqa: ARG002
        cos, sin = rope.angles(position, self.size // 2 * 2, self.base, compute_dtype(x.dtype))
        q, r = (to(x).unflatten(-1, (self.key_heads, -1, self.size)) for to in (self.to_query, self.to_probe))
        k, v = (to(x).unflatten(-1, (self.key_heads, -1)) for to in (self.to_key, self.to_value))
        q, r = (rope.rotate(part, cos[:, :, None, None], sin[:, :, None, None]) for part in (q, r))
        return {"q": torch.cat([q, r], -1), "k": rope.rotate(k, cos[:, :, None], sin[:, :, None]), "v": v}

    def step(self, keys: Tensor, values: Tensor, present: Tensor, q: Tensor, k: Tensor, v: Tensor):
        keys, values = torch.cat([keys, k[None]]), torch.cat([values, v[None]])
        mask = torch.where(pad(present, (0, 1), value=True), 0.0, float("-inf"))
        return (keys, values), regress(q, keys, values, mask, self.size**-0.5)

    def parallel(self, call: Call) -> tuple[Tensor, dict[str, Tensor]]:
        keys, values = (cache.extend(call.state[name], call.inputs[name[0]]) for name in ("keys", "values"))
        q = call.inputs["q"].flatten(2, 3).transpose(1, 2).to(keys.dtype)
        how = {"whole": call.whole, "window": self.window, "scale": self.size**-0.5, "read": regress}
        y = attend(q, keys, values, self.kept(call.position) + 1, **how).transpose(1, 2)
        stop, count = keys.shape[2] - call.position.shape[1] + call.ends, self.kept(call.last)
        new = {"keys": cache.newest(keys, stop, count), "values": cache.newest(values, stop, count)}
        return y.unflatten(2, (self.key_heads, -1)), new

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))


def regress(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """What queries and probes, side by side in q [..., T, 2K], read of k and v [..., N, K]; `mask` joins the scores."""
    wide = compute_dtype(q.dtype)
    q, r = q.to(wide).chunk(2, -1)
    weights = torch.softmax(q @ k.to(wide).mT * scale + mask, -1)
    probed = r @ k.to(wide).mT
    mean = (weights * probed).sum(-1, keepdim=True)
    return (weights * (1 + mean - probed) @ v.to(wide)).to(v.dtype)
