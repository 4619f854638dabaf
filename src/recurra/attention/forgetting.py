"""The Forgetting Transformer's attention: softmax attention whose scores fade by gates between key and query."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from recurra import options
from recurra.attention import cache
from recurra.attention.base import Attention, Call
from recurra.attention.fades import Fades
from recurra.attention.softmax import attend
from recurra.contract import Paper
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import Lane, cast, compute_dtype
from recurra.windows import Past


class ForgettingAttention(Attention):
    """y_t = sum_i softmax_i(q_t . k_i / sqrt(K) + d_ti) v_i over i = 1..t,  d_ti = log f_{i+1} + ... + log f_t
    f_t = sigmoid(w_f x_t + b_f).

    Lane: a head; keys, values: [S, K], and decays: [S], which hold d_ti, with K = D / heads; q, k, v: [K], f: a number.
    A step adds log f_t to all decays and begins a new one at 0. q, k, v are linear maps of x. The result is W_o y.

    With `pro`, the layer of the paper's Pro block: k and v are mixed with those of the time step before by gates per
    head, k_t <- a_t k_{t-1} + (1 - a_t) k_t with a_t = sigmoid(w_k x_t), v alike; then q and k are normed, and the
    result is W_o (rmsnorm(y) * sigmoid(W_g x)). All norms are rmsnorm within each head.

    Source: Forgetting Transformer: Softmax Attention with a Forget Gate, Lin, Nikishin, He, Courville, 2025,
    arXiv:2503.02130. No positions are encoded, as by default there; without `pro` it is its LLaMA-like block's layer.
    """

    lane = Lane.HEAD
    growing = ("keys", "values", "decays")
    paper = Paper(
        "Forgetting Transformer: Softmax Attention with a Forget Gate", "Lin, Nikishin, He, Courville", 2025,
        "2503.02130",
    )  # fmt: skip

    def __init__(self, width: int, heads: int = 4, pro: bool = False):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.size = width // heads
        self.to_query, self.to_key, self.to_value = (Linear(width, width, bias=False) for _ in range(3))
        self.to_gate = Linear(width, heads)
        self.to_output = Linear(width, width, bias=False)
        self.pro = options.flag("pro", pro)
        if pro:
            self.windows = {"shift": (2 * width, 1)}
            self.to_shift = Linear(width, 2 * heads, bias=False)
            self.norm_weights = nn.Parameter(torch.ones(3, heads, self.size))  # of q, k, y
            self.to_output_gate = Linear(width, width, bias=False)

    def start(self, like: Tensor) -> dict[str, Tensor]:
        empty = like.new_zeros(self.heads, 0, self.size)
        return {"keys": empty, "values": empty, "decays": empty[..., 0].to(compute_dtype(like.dtype))}

    def kept(self, position: Tensor) -> Tensor:
        return position

    def inputs(self, x: Tensor, position: Tensor, past: Past) -> dict[str, Tensor]:  # noqa: ARG002
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)) for to in (self.to_query, self.to_key, self.to_value))
        if self.pro:
            now, before = past.lags("shift", torch.cat([k, v], 2).flatten(2))
            mix = torch.sigmoid(self.to_shift(x))[..., None]
            now, before = (part.unflatten(-1, (2 * self.heads, -1)) for part in (now, before))
            k, v = (mix * before + (1 - mix) * now).chunk(2, 2)
            q, k = self._normed(q, 0), self._normed(k, 1)
        return {"q": q, "k": k, "v": v, "log_gate": logsigmoid(cast(self.to_gate(x), compute_dtype(x.dtype)))}

    def step(
        self, keys: Tensor, values: Tensor, decays: Tensor, present: Tensor,
        q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor,
    ):  # fmt: skip
        keys, values = torch.cat([keys, k[None]]), torch.cat([values, v[None]])
        decays = pad(decays + log_gate, (0, 1))
        seen = pad(present, (0, 1), value=True)
        scores = torch.where(seen, keys @ q * self.size**-0.5 + decays, float("-inf"))
        return (keys, values, decays), torch.softmax(scores, -1) @ values

    def parallel(self, call: Call) -> tuple[Tensor, dict[str, Tensor]]:
        time, carried = call.position.shape[1], call.state["keys"].shape[2]
        log_gate = call.inputs["log_gate"].transpose(1, 2)
        valid = torch.arange(time, device=log_gate.device) < call.ends[:, None, None]
        # An entry whose gate is not a number is none either.
        k = torch.where(log_gate.isfinite().transpose(1, 2)[..., None], call.inputs["k"], float("nan"))
        log_gate = torch.where(valid & log_gate.isfinite(), log_gate, 0)
        keys, values = cache.extend(call.state["keys"], k), cache.extend(call.state["values"], call.inputs["v"])
        fades = Fades(call.state["decays"], log_gate)
        q = call.inputs["q"].transpose(1, 2).to(keys.dtype)
        y = attend(q, keys, values, call.position + 1, whole=call.whole, bias=fades.bias)
        entries = {"keys": keys, "values": values, "decays": fades.decays(time)}
        return y.transpose(1, 2), {
            name: cache.newest(value, carried + call.ends, call.last) for name, value in entries.items()
        }

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        if not self.pro:
            return self.to_output(y.flatten(2))
        return self.to_output(torch.sigmoid(self.to_output_gate(x)) * self._normed(y, 2).flatten(2))

    def _normed(self, heads: Tensor, which: int) -> Tensor:
        return rms_norm(heads, None, 1e-6) * self.norm_weights[which].to(heads.dtype)
