"""RAT: a gated recurrence within chunks of time, softmax attention across them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from recurra import options
from recurra.attention import cache, rope
from recurra.attention.base import Attention, Call
from recurra.attention.chunks import across, within
from recurra.contract import Paper
from recurra.nn.linear import Linear
from recurra.problem import Lane, cast, compute_dtype
from recurra.windows import Past


class RAT(Attention):
    """k~_t = g_t k~_{t-1} + (1 - g_t) k_t,  v~_t = g_t v~_{t-1} + (1 - g_t) v_t, both from zero in every chunk
    y_t = sum_c softmax_c(q_t . k~_c / sqrt(K)) v~_c over the ends c of all chunks before that of t, and c = t.

    Lane: a head; k~, v~ (`running_key`, `running_value`) and g, k, v, q: [K], K = D / heads; keys, values: [S, K] are
    those of the ends of chunks. A chunk is `chunk` time steps, counted from the sequence's own start. v and
    g = sigmoid(W_g x + b_g) are linear in x for every head, q and k for `key_heads` of them: head h reads number
    h // (heads / key_heads). q and k~ turn by RoPE (`rope.py`) with the number of their chunk. The result is
    W_o (sigmoid(W_z x) * y). Initialisation: b_g = log u, u uniform in [1, chunk - 1], as in the authors' code.

    Source: RAT: Bridging RNN Efficiency and Attention Accuracy via Chunk-based Sequence Modeling, Wei, Yadav, Pascanu,
    Gulcehre, 2025, arXiv:2507.04416.
    """

    lane = Lane.HEAD
    paper = Paper(
        "RAT: Bridging RNN Efficiency and Attention Accuracy", "Wei, Yadav, Pascanu, Gulcehre", 2025, "2507.04416"
    )

    def __init__(self, width: int, heads: int = 4, key_heads: int = 2, chunk: int = 16, base: float = 10000.0):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.key_heads = options.divisor("key_heads", key_heads, heads, "heads")
        self.size, self.chunk = width // heads, options.count("chunk", chunk)
        self.base = options.number("base", base, 1)
        self.to_query, self.to_key = (Linear(width, key_heads * self.size, bias=False) for _ in range(2))
        self.to_value, self.to_output_gate, self.to_output = (Linear(width, width, bias=False) for _ in range(3))
        self.to_gate = Linear(width, width)
        nn.init.uniform_(self.to_gate.bias, 1, max(1, chunk - 1))
        self.to_gate.bias.data.log_()

    def start(self, like: Tensor) -> dict[str, Tensor]:
        empty = like.new_zeros(self.heads, 0, self.size)
        zero = like.new_zeros(self.heads, self.size, dtype=compute_dtype(like.dtype))
        return {"keys": empty, "values": empty, "running_key": zero, "running_value": zero}

    def kept(self, position: Tensor) -> Tensor:
        return position // self.chunk

    def inputs(self, x: Tensor, position: Tensor, past: Past) -> dict[str, Tensor]:  # noqa: ARG002
        group = self.heads // self.key_heads
        q, k = (to(x).unflatten(-1, (self.key_heads, -1)) for to in (self.to_query, self.to_key))
        q, k = q.repeat_interleave(group, 2), k.repeat_interleave(group, 2)
        v, gate = (to(x).unflatten(-1, (self.heads, -1)) for to in (self.to_value, self.to_gate))
        turn = rope.angles(position // self.chunk, self.size // 2 * 2, self.base, compute_dtype(x.dtype))
        cos, sin = (part[:, :, None].expand(-1, -1, self.heads, -1) for part in turn)
        gate = torch.sigmoid(cast(gate, compute_dtype(x.dtype)))
        phase = (position % self.chunk)[:, :, None].expand(-1, -1, self.heads)
        return {"q": rope.rotate(q, cos, sin), "k": k, "v": v, "gate": gate, "cos": cos, "sin": sin, "phase": phase}

    def step(
        self, keys: Tensor, values: Tensor, running_key: Tensor, running_value: Tensor, present: Tensor,
        q: Tensor, k: Tensor, v: Tensor, gate: Tensor, cos: Tensor, sin: Tensor, phase: Tensor,
    ):  # fmt: skip
        running_key = torch.where(phase == 0, 0, gate * running_key) + (1 - gate) * k
        running_value = torch.where(phase == 0, 0, gate * running_value) + (1 - gate) * v
        turned = rope.rotate(running_key, cos, sin)
        keys, values = torch.cat([keys, turned[None]]), torch.cat([values, running_value[None]])
        seen = pad(present, (0, 1), value=True)
        y = torch.softmax(torch.where(seen, keys @ q * self.size**-0.5, float("-inf")), -1) @ values
        ends = phase == self.chunk - 1
        keys, values = (torch.where(ends, part, pad(part[:-1], (0, 0, 1, 0))) for part in (keys, values))
        return (keys, values, running_key, running_value), y

    def parallel(self, call: Call) -> tuple[Tensor, dict[str, Tensor]]:
        dtype = compute_dtype(call.inputs["q"].dtype)
        q, k, v, gate, cos, sin, phase = (cast(part.transpose(1, 2), dtype) for part in call.inputs.values())
        phase = phase[:, 0]
        before = torch.cat([call.state["running_key"], call.state["running_value"]], -1)
        running = within(torch.cat([gate, gate], -1), torch.cat([k, v], -1), phase, self.chunk, before)
        k, v = running[:, :, 1:].chunk(2, -1)
        k = rope.rotate(k, cos, sin)
        ends = phase == self.chunk - 1
        valid = torch.arange(phase.shape[1], device=phase.device) < call.ends[:, None]
        keys, values = (cache.append(call.state[n], part, ends) for n, part in (("keys", k), ("values", v)))
        carried = call.state["keys"].shape[2]
        before = carried + ends.cumsum(1) - ends.long()
        y = across(q, k, v, keys.to(dtype), values.to(dtype), before, self.kept(call.position))
        stop, count = carried + (ends & valid).sum(1), self.kept(call.last)
        new = {"keys": cache.newest(keys, stop, count), "values": cache.newest(values, stop, count)}
        new["running_key"], new["running_value"] = cache.pick(running, call.ends[:, None])[:, :, 0].chunk(2, -1)
        return y.transpose(1, 2), new

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        return self.to_output(torch.sigmoid(self.to_output_gate(x)) * y.flatten(2))
