"""The Forgetting Transformer's attention: softmax attention whose scores fade by gates between key and query."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from recurra import options
from recurra.attention import cache
from recurra.attention.base import Attention, Call
from recurra.attention.softmax import attend
from recurra.contract import Paper
from recurra.problem import Lane, cast, compute_dtype
from recurra.windows import Past


class ForgettingAttention(Attention):
    """y_t = sum_i softmax_i(q_t . k_i / sqrt(K) + d_ti) v_i over i = 1..t,  d_ti = log f_{i+1} + ... + log f_t
    f_t = sigmoid(w_f x_t + b_f).

    Lane: a head; keys, values: [S, K], and decays: [S], which hold d_ti, with K = D / heads; q, k, v: [K], f: a number.
    A step adds log f_t to all decays and begins a new one at 0. q, k, v are linear maps of x. The result is W_o y.

    Source: Forgetting Transformer: Softmax Attention with a Forget Gate, Lin, Nikishin, He, Courville, 2025,
    arXiv:2503.02130. No positions are encoded, as by default there. This is the layer of its LLaMA-like block.
    """

    lane = Lane.HEAD
    growing = ("keys", "values", "decays")
    paper = Paper(
        "Forgetting Transformer: Softmax Attention with a Forget Gate", "Lin, Nikishin, He, Courville", 2025,
        "2503.02130",
    )  # fmt: skip

    def __init__(self, width: int, heads: int = 4):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.size = width // heads
        self.to_query, self.to_key, self.to_value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_gate = nn.Linear(width, heads)
        self.to_output = nn.Linear(width, width, bias=False)

    def start(self, like: Tensor) -> dict[str, Tensor]:
        empty = like.new_zeros(self.heads, 0, self.size)
        return {"keys": empty, "values": empty, "decays": empty[..., 0].to(compute_dtype(like.dtype))}

    def kept(self, position: Tensor) -> Tensor:
        return position

    def inputs(self, x: Tensor, position: Tensor, past: Past) -> dict[str, Tensor]:  # noqa: ARG002
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)) for to in (self.to_query, self.to_key, self.to_value))
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

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))


class Fades:
    """Sums of gates between entries and time steps; none is a difference of two long sums, which would lose digits.

    Args:
        carried: [B, H, S], by how much the entries carried in have faded.
        log_gate: [B, H, T].
    """

    def __init__(self, carried: Tensor, log_gate: Tensor):
        self.carried, self.log_gate = carried, log_gate

    def decays(self, time: int) -> Tensor:
        """By how much all entries have faded after the first `time` time steps, [B, H, S + time]."""
        gates = self.log_gate[..., :time]
        later = pad(gates.flip(-1).cumsum(-1).flip(-1), (0, 1))[..., 1:]
        return torch.cat([self.carried + gates.sum(-1, keepdim=True), later], -1)

    def bias(self, begin: int, end: int, first: int) -> Tensor:
        """By how much entries from `first` on have faded at time steps begin to end - 1, [B, H, end - begin, ...]."""
        place = torch.arange(self.carried.shape[2] + end, device=self.log_gate.device)
        later = place[self.carried.shape[2] + begin :, None] > place
        within = torch.where(later, self.log_gate[..., begin:end, None], 0).cumsum(-2)
        return (pad(self.decays(begin), (0, end - begin))[..., None, :] + within)[..., first:]
