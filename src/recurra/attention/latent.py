"""Multi-head latent attention: of a time step one short vector is kept, of which the entries of all heads are made."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from recurra import check, options
from recurra.attention import cache, rope
from recurra.attention.base import Attention, Call
from recurra.attention.softmax import attend
from recurra.contract import Paper
from recurra.nn.linear import Linear
from recurra.pointwise import RMSNorm
from recurra.problem import Lane, compute_dtype
from recurra.windows import Past


class LatentAttention(Attention):
    """y_t = sum_i softmax_i(q_t . k_i / sqrt(K + R)) v_i over i = 1..t in each head, k_i = (W c_i, r_i), v_i = W' c_i.

    Lane: the layer, which keeps c = rmsnorm(W_c x): [L], L = `latent`, and r: [R], R = `shared`, a linear map of x that
    all heads read, as `keys`: [S, L + R].
    q = W_q x: [H, K + R], K = `size`; v: [V], V = `value_size`. r and the last R channels of q turn by RoPE with the
    position in the sequence, unless `base` is None. The result is W_o y; with `gated` y of each head is multiplied by
    sigmoid(w x) before. W_c and the map to r are `to_latent`, W and W'
    of each head in turn `to_heads`.

    Source: DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model, DeepSeek-AI, 2024,
    arXiv:2405.04434, without its latent of queries; without `base` as in Kimi Linear, `gated` as in
    Ling 3. By default K = V = D / H and L = 2 K, and R is half of K, rounded up to be even.
    """

    lane = Lane.LAYER
    growing = ("keys",)
    paper = Paper(
        "DeepSeek-V2: A Strong, Economical, and Efficient MoE Language Model", "DeepSeek-AI", 2024, "2405.04434"
    )

    def __init__(
        self,
        width: int,
        heads: int = 4,
        size: int | None = None,
        value_size: int | None = None,
        latent: int | None = None,
        shared: int | None = None,
        base: float | None = 10000.0,
        norm_eps: float = 1e-6,
        gated: bool = False,
    ):
        super().__init__(width)
        self.heads = options.count("heads", heads)
        size = width // options.divisor("heads", heads, width, "width") if size is None else size
        self.K = options.count("size", size)
        self.V = options.count("value_size", self.K if value_size is None else value_size)
        self.L = options.count("latent", 2 * self.K if latent is None else latent)
        self.R = options.count("shared", 2 * -(-self.K // 4) if shared is None else shared)
        self.base = None if base is None else options.number("base", base, 1)
        self.to_query = Linear(width, heads * (self.K + self.R), bias=False)
        self.to_latent = Linear(width, self.L + self.R, bias=False)
        self.norm = RMSNorm(self.L, eps=options.number("norm_eps", norm_eps, 0))
        self.to_heads = Linear(self.L, heads * (self.K + self.V), bias=False)
        self.to_output = Linear(heads * self.V, width, bias=False)
        self.to_gate = Linear(width, heads, bias=False) if options.flag("gated", gated) else None

    def start(self, like: Tensor) -> dict[str, Tensor]:
        return {"keys": like.new_zeros(1, 0, self.L + self.R)}

    def kept(self, position: Tensor) -> Tensor:
        return position

    def inputs(self, x: Tensor, position: Tensor, past: Past) -> dict[str, Tensor]:  # noqa: ARG002
        q, r = self.to_query(x).unflatten(-1, (self.heads, -1)).split([self.K, self.R], -1)
        c, shared = self.to_latent(x).split([self.L, self.R], -1)
        if self.base is not None:
            cos, sin = rope.angles(position, self.R // 2 * 2, self.base, compute_dtype(x.dtype))
            r, shared = rope.rotate(r, cos[:, :, None], sin[:, :, None]), rope.rotate(shared, cos, sin)
        return {"q": torch.cat([q, r], -1)[:, :, None], "k": torch.cat([self.norm(c), shared], -1)[:, :, None]}

    def entries(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [..., H, S, K + R] and values [..., H, S, V] of what is kept, [..., S, L + R]."""
        c, shared = keys.split([self.L, self.R], -1)
        held = check.representative(self.to_heads)  # the reference computes in a wider type than that of the weights
        made = self.to_heads(c if held is None else c.to(held.dtype)).to(c.dtype)
        k, v = made.unflatten(-1, (self.heads, -1)).transpose(-2, -3).split([self.K, self.V], -1)
        return torch.cat([k, shared[..., None, :, :].expand(*k.shape[:-1], -1)], -1), v

    def step(self, keys: Tensor, present: Tensor, q: Tensor, k: Tensor) -> tuple[tuple[Tensor], Tensor]:
        keys = torch.cat([keys, k[None]])
        seen = pad(present, (0, 1), value=True)
        made, values = self.entries(keys)
        scores = (made @ q[..., None])[..., 0] * (self.K + self.R) ** -0.5
        weights = torch.softmax(torch.where(seen, scores, float("-inf")), -1)
        return (keys,), (weights[:, None] @ values)[:, 0]

    def parallel(self, call: Call) -> tuple[Tensor, dict[str, Tensor]]:
        keys = cache.extend(call.state["keys"], call.inputs["k"])
        q = call.inputs["q"][:, :, 0].transpose(1, 2).to(keys.dtype)
        y = attend(q, *self.entries(keys[:, 0]), call.position + 1, whole=call.whole)
        stop = keys.shape[2] - call.position.shape[1] + call.ends
        return y.transpose(1, 2)[:, :, None], {"keys": cache.newest(keys, stop, call.last)}

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        y = y[:, :, 0]
        y = y if self.to_gate is None else torch.sigmoid(self.to_gate(x))[..., None].to(y.dtype) * y
        return self.to_output(y.flatten(2))
