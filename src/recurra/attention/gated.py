"""What Mega and its relatives share: one head of gated attention over a signal in which time was mixed before."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from recurra import check, options
from recurra.attention import cache, rope
from recurra.attention.base import Attention, Call
from recurra.attention.softmax import attend
from recurra.nn.linear import Linear
from recurra.problem import Lane, cast, compute_dtype

BASE = 10000.0
"""Of the angles by which the bias of positions turns, as in RoPE."""


class GatedAttention(Attention):
    """From m, what a subclass makes of x, and x itself:

    z = silu(W_z m), r = silu(W_r m), u = sigmoid(W_u m), v = silu(W_v x),  q = g_1 * z + b_1,  k = g_2 * z + b_2
    o_t = sum_i f(q_t . k_i / n + c(t - i)) v_i,  y = x + u * (silu(W_h m + U (o * r)) - x), all maps with biases.

    i runs over the time steps up to t, of which there are n, with a `chunk` over those of its chunk, counted from the
    sequence's start. f(s) = (1 + erf((s - sqrt(1/2)) sqrt(2 pi))) / 2, Laplace's; with `softmax`, softmax_i and
    sqrt(Z) in the place of n. c(d) = a . b turned by d, as RoPE turns.
    """

    lane = Lane.LAYER

    def __init__(self, width: int, size: int | None, value_size: int | None, chunk: int | None, softmax: bool):
        super().__init__(width)
        size = self.size = max(1, width // 4) if size is None else options.count("size", size)
        values = self.value_size = 2 * width if value_size is None else options.count("value_size", value_size)
        self.chunk = None if chunk is None else options.count("chunk", chunk)
        self.softmax, self.scale = options.flag("softmax", softmax), size**-0.5
        self.to_value, self.to_inner = Linear(width, values), Linear(width, size + values + 2 * width)
        self.to_back = Linear(values, width)
        for part in (self.to_value, self.to_inner, self.to_back):
            nn.init.normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
        self.gain, self.offset = nn.Parameter(0.02 * torch.randn(2, size)), nn.Parameter(torch.zeros(2, size))
        self.far = nn.Parameter(0.02 * torch.randn(2, size))  # a and b of the bias

    @property
    def endless(self) -> bool:
        return self.chunk is None

    def kept(self, position: Tensor) -> Tensor:
        return position if self.chunk is None else position % self.chunk

    def empty(self, like: Tensor) -> dict[str, Tensor]:
        """No keys and no values."""
        return {"keys": like.new_zeros(1, 0, self.size), "values": like.new_zeros(1, 0, self.value_size)}

    def asked(self, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q and k [..., Z], and the gates r and u with W_h m between them, [..., E + 2D]."""
        held = check.representative(self.to_inner)  # the reference computes in a wider type than that of the weights
        inner = self.to_inner(m if held is None else m.to(held.dtype)).to(m.dtype)
        z, r, h, u = inner.split([self.size, self.value_size, self.width, self.width], -1)
        q, k = (silu(z)[..., None, :] * self.gain.to(z.dtype) + self.offset.to(z.dtype)).unbind(-2)
        return q, k, torch.cat([silu(r), h, torch.sigmoid(u)], -1)

    def bias(self, count: int) -> Tensor:
        """c(0), c(1), ..., as many as `count`."""
        dtype = compute_dtype(self.far.dtype)
        distance = torch.arange(count, device=self.far.device)
        cos, sin = rope.angles(distance[None], self.size // 2 * 2, BASE, dtype)
        a, b = cast(self.far, dtype)
        return (rope.rotate(b.expand(count, -1), cos[0], -sin[0]) * a).sum(-1)

    def read(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
        """What queries [..., T, Z] read; `mask` joins the scores, -inf for what they do not see."""
        wide = compute_dtype(q.dtype)
        scores = q.to(wide) @ k.to(wide).mT
        if self.softmax:
            weights = torch.softmax(scores * scale + mask, -1)
        else:
            scores = scores / (mask > float("-inf")).sum(-1, keepdim=True) + mask
            weights = (1 + torch.erf((scores - math.sqrt(0.5)) * math.sqrt(2 * math.pi))) / 2
        return (weights @ v.to(wide)).to(v.dtype)

    def one(
        self, keys: Tensor, values: Tensor, present: Tensor, q: Tensor, k: Tensor, v: Tensor, gates: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """A time step: keys and values with its own, and o * r, W_h m and u side by side."""
        keys, values = torch.cat([keys, k[None]]), torch.cat([values, v[None]])
        seen = torch.cat([present, present.new_ones(1)])
        mask = torch.where(seen, self.bias(len(seen)).flip(0).to(q.dtype), float("-inf"))
        o = self.read(q[None], keys, values, mask[None], self.scale)[0]
        return (keys, values), torch.cat([o * gates[: self.value_size], gates[self.value_size :]])

    def all(self, call: Call, q: Tensor, k: Tensor, v: Tensor, gates: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """As `one`, for all time steps, [B, T, 1, ...]."""
        keys, values = cache.extend(call.state["keys"], k), cache.extend(call.state["values"], v)
        carried = call.state["keys"].shape[2]

        def bias(begin: int, end: int, first: int) -> Tensor:
            own = carried + torch.arange(begin, end, device=q.device)[:, None]
            distance = own - torch.arange(first, carried + end, device=q.device)
            return self.bias(carried + end - first)[distance.clamp(min=0)]

        seen = self.kept(call.position) + 1
        q, how = q.transpose(1, 2).to(keys.dtype), {"whole": call.whole, "window": self.chunk, "scale": self.scale}
        o = attend(q, keys, values, seen, bias=bias, read=self.read, **how).transpose(1, 2)
        stop, count = carried + call.ends, self.kept(call.last)
        new = {"keys": cache.newest(keys, stop, count), "values": cache.newest(values, stop, count)}
        return torch.cat([o * gates[..., : self.value_size], gates[..., self.value_size :]], -1), new

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        read, h, u = y.squeeze(2).split([self.value_size, self.width, self.width], -1)
        return x + u * (silu(h + self.to_back(read)) - x)
