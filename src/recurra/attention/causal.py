"""Causal softmax attention, over everything so far or over the last few time steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from recurra import options
from recurra.attention import cache, front, rope
from recurra.attention.base import Attention, Call
from recurra.attention.softmax import Front, attend
from recurra.contract import Paper
from recurra.errors import InputError
from recurra.nn.linear import Linear
from recurra.pointwise import RMSNorm, RMSNormFromOne
from recurra.problem import Lane, compute_dtype
from recurra.windows import Past

NORMS = ("head", "head-from-one", "whole")
"""Of queries and keys."""


class CausalAttention(Attention):
    """y_t = sum_i softmax_i(q_t . k_i / sqrt(K)) v_i over i = 1..t, or over i = t - window + 1..t with a `window`.

    Lane: a key head with the G = heads / key_heads query heads that read it; keys: [S, K], values: [S, K], q: [G, K],
    K = D / heads. Query head h reads key head h // G. q, k, v are linear maps of x; the first `rotary` K channels of q
    and k, an even number of them, turn by RoPE with the position in the sequence (`rope.py`). The result is W_o y.
    With a `window` the state holds the window - 1 entries that the next time step can see.

    With `sinks`, all time steps see the first so many of their sequence as well: once the window has left them behind
    they turn as if they were `window` steps away, and the state keeps them apart. With `persistent`, there are so many
    learned pairs besides in each key head, which have no position: q asks them before it turns. They start normal.

    Options of published models: `size` is K where it is not D / heads; `bias` and `output_bias` give the maps to q, k,
    v, and W_o, one; `scale` stands in place of 1 / sqrt(K); `qk_norm` divides q and k by their root mean squares before
    they turn: "head", each head's, times one weight per channel, which with "head-from-one" is added to one; "whole",
    that of all heads together. With `gated`, y is multiplied by sigmoid(W_g x); `to_query` has, for each head, the rows
    of q above those of the gate. With `gated` = "head", a head has one gate, and their map is `to_gate`.

    Source: Attention Is All You Need, Vaswani et al., 2017, arXiv:1706.03762, where positions are added to the input;
    RoPE: arXiv:2104.09864; fewer key heads: GQA, Ainslie et al., 2023, arXiv:2305.13245. No biases
    by default. Gates and norms are those of Qwen3-Next, LFM3 and OLMo, biases and scales of Granite and Falcon-H1.
    Sinks: LM-Infinite, Han et al., 2023, arXiv:2308.16137; persistent pairs: Sukhbaatar et al., 2019, arXiv:1907.01470.
    """

    lane = Lane.HEAD
    paper = Paper("Attention Is All You Need", "Vaswani et al.", 2017, "1706.03762")

    def __init__(
        self,
        width: int,
        heads: int = 4,
        key_heads: int | None = None,
        rotary: float = 1.0,
        base: float = 10000.0,
        window: int | None = None,
        size: int | None = None,
        scale: float | None = None,
        bias: bool = False,
        output_bias: bool = False,
        qk_norm: str | None = None,
        norm_eps: float = 1e-6,
        gated: bool | str = False,
        sinks: int = 0,
        persistent: int = 0,
    ):
        super().__init__(width)
        if size is None:
            size = width // options.divisor("heads", heads, width, "width")
        self.heads = options.count("heads", heads)
        self.key_heads = heads if key_heads is None else options.divisor("key_heads", key_heads, heads, "heads")
        self.size = options.count("size", size)
        self.scale = self.size**-0.5 if scale is None else options.number("scale", scale, -options.MOST)
        self.turning = 2 * int(options.number("rotary", rotary, 0, 1 + 1e-9) * self.size / 2)
        self.base = options.number("base", base, 1)
        self.window = None if window is None else options.count("window", window)
        self.sinks = options.whole("sinks", sinks)
        if sinks and window is None:
            raise InputError(f"sinks is {sinks} and window is None; expected a window, beyond which sinks are seen")
        pairs = torch.randn(self.key_heads, 2, options.whole("persistent", persistent), self.size)
        self.persistent = nn.Parameter(pairs) if persistent else None
        inner = heads * self.size
        self.gated = gated != "head" and options.flag("gated", gated)
        self.to_query = Linear(width, inner * (2 if self.gated else 1), bias=options.flag("bias", bias))
        self.to_key = Linear(width, self.key_heads * self.size, bias=bias)
        self.to_value = Linear(width, self.key_heads * self.size, bias=bias)
        self.to_output = Linear(inner, width, bias=options.flag("output_bias", output_bias))
        self.to_gate = Linear(width, heads, bias=False) if gated == "head" else None
        self.qk_norm = None if qk_norm is None else options.choice("qk_norm", qk_norm, NORMS)
        if self.qk_norm is not None:
            norm = RMSNormFromOne if qk_norm == "head-from-one" else RMSNorm
            whole, options_of_norm = qk_norm == "whole", {"eps": options.number("norm_eps", norm_eps, 0)}
            self.query_norm = norm(inner if whole else self.size, **options_of_norm)
            self.key_norm = norm(self.key_heads * self.size if whole else self.size, **options_of_norm)

    @property
    def endless(self) -> bool:
        return self.window is None

    def start(self, like: Tensor) -> dict[str, Tensor]:
        empty = like.new_zeros(self.key_heads, 0, self.size)
        first = like.new_zeros(self.key_heads, self.sinks, self.size)
        return {"keys": empty, "values": empty} | (dict.fromkeys(front.SINKS, first) if self.sinks else {})

    def kept(self, position: Tensor) -> Tensor:
        return position if self.window is None else position.clamp(max=self.window - 1)

    def inputs(self, x: Tensor, position: Tensor, past: Past) -> dict[str, Tensor]:  # noqa: ARG002
        cos, sin = rope.angles(position, self.turning, self.base, compute_dtype(x.dtype))
        q, k, v = self.to_query(x), self.to_key(x), self.to_value(x)
        gate: dict[str, Tensor] = {}
        if self.gated:
            q, opening = q.unflatten(-1, (self.heads, 2, self.size)).unbind(-2)
            q, gate = q.flatten(2), {"gate": opening.unflatten(2, (self.key_heads, -1))}
        if self.qk_norm == "whole":
            q, k = self.query_norm(q), self.key_norm(k)
        q = q.unflatten(-1, (self.key_heads, -1, self.size))
        k, v = (part.unflatten(-1, (self.key_heads, -1)) for part in (k, v))
        if self.qk_norm in ("head", "head-from-one"):
            q, k = self.query_norm(q), self.key_norm(k)
        more = self._for_the_front(q, k, position)
        k = rope.rotate(k, cos[:, :, None], sin[:, :, None])
        return {"q": rope.rotate(q, cos[:, :, None, None], sin[:, :, None, None]), "k": k, "v": v} | gate | more

    def _for_the_front(self, q: Tensor, k: Tensor, position: Tensor) -> dict[str, Tensor]:
        """What sinks and persistent pairs need of q [B, T, L, G, K] and k [B, T, L, K] that have not turned."""
        more = {} if self.persistent is None and not self.sinks else {"plain": q}
        if self.persistent is not None:
            more["pairs"] = self.persistent.expand(*position.shape, *self.persistent.shape)
        if self.window is not None and self.sinks:
            distance = torch.full((1, 1), self.window, device=k.device)
            cos, sin = rope.angles(distance, self.turning, self.base, compute_dtype(k.dtype))
            more["far"] = rope.rotate(k, cos[:, :, None], -sin[:, :, None])
            more["position"] = position[:, :, None].expand(k.shape[:3])
            more["behind"] = more["position"] + 1 - self.window
        return more

    def step(
        self, keys: Tensor, values: Tensor, *sinks: Tensor, present: Tensor, q: Tensor, k: Tensor, v: Tensor,
        gate: Tensor | None = None, **more: Tensor,
    ):  # fmt: skip
        keys, values = torch.cat([keys, k[None]]), torch.cat([values, v[None]])
        seen = pad(present, (0, 1), value=True)
        scores, read = [torch.where(seen, q @ keys.T * self.scale, float("-inf"))], [values]
        if "pairs" in more:
            scores.append(more["plain"] @ more["pairs"][0].T * self.scale)
            read.append(more["pairs"][1])
        if sinks:
            place = torch.arange(self.sinks, device=k.device)
            now = (place == more["position"])[:, None]
            sinks = torch.where(now, more["far"], sinks[0]), torch.where(now, v, sinks[1])
            behind = place < more["behind"]
            scores.append(torch.where(behind, more["plain"] @ sinks[0].T * self.scale, float("-inf")))
            read.append(sinks[1])
        y = torch.softmax(torch.cat(scores, -1), -1) @ torch.cat(read)
        return (keys, values, *sinks), y if gate is None else torch.sigmoid(gate) * y

    def parallel(self, call: Call) -> tuple[Tensor, dict[str, Tensor]]:
        keys, values = (cache.extend(call.state[name], call.inputs[name[0]]) for name in ("keys", "values"))
        q = call.inputs["q"].flatten(2, 3).transpose(1, 2).to(keys.dtype)
        seen = self.kept(call.position) + 1
        before, sinks = self._front(call)
        y = attend(q, keys, values, seen, whole=call.whole, window=self.window, scale=self.scale, front=before)
        y = y.transpose(1, 2).unflatten(2, (self.key_heads, -1))
        if self.gated:
            y = torch.sigmoid(call.inputs["gate"]).to(y.dtype) * y
        stop, count = keys.shape[2] - call.position.shape[1] + call.ends, self.kept(call.last)
        new = {"keys": cache.newest(keys, stop, count), "values": cache.newest(values, stop, count)}
        return y, new | sinks

    def _front(self, call: Call) -> tuple[Front | None, dict[str, Tensor]]:
        """What all time steps of a call see besides their windows, and the new states of the sinks."""
        if "plain" not in call.inputs:
            return None, {}
        q, held = call.inputs["plain"].flatten(2, 3).transpose(1, 2), call.state["keys"].dtype
        parts: list[front.Pairs] = []
        state: dict[str, Tensor] = {}
        if self.persistent is not None:
            k, v = self.persistent.to(held).expand(len(q), -1, -1, -1, -1).unbind(2)
            parts.append((k, v, k.new_ones(*call.position.shape, k.shape[2], dtype=torch.bool)))
        if self.window is not None and self.sinks:
            seen, state = front.sinks(call, call.inputs["far"], call.inputs["v"], self.window)
            parts.append(seen)
        keys, values, visible = zip(*parts, strict=True)
        return Front(q.to(held), torch.cat(keys, 2), torch.cat(values, 2), torch.cat(visible, -1)), state

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        y = y.flatten(2, 3)
        y = y if self.to_gate is None else torch.sigmoid(self.to_gate(x))[..., None].to(y.dtype) * y
        return self.to_output(y.flatten(2))


class LocalAttention(CausalAttention):
    """`attention` with a window of 1024 time steps, one key head, and half of the channels turning. `sinks` and
    `persistent` are those of `attention`.

    Lane: the key head with all query heads. Its state is bounded. The layer pattern of Griffin is
    `rg-lru*2+local-attention`.

    Source: Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language Models, De, Smith,
    Fernando, Botev et al., 2024, arXiv:2402.19427. That half of the channels turn is from the published models, and so
    is the bias that W_o has with `output_bias`.
    """

    lane = Lane.HEAD
    paper = Paper("Griffin: Mixing Gated Linear Recurrences with Local Attention", "De et al.", 2024, "2402.19427")

    def __init__(
        self,
        width: int,
        heads: int = 4,
        key_heads: int = 1,
        rotary: float = 0.5,
        base: float = 10000.0,
        window: int = 1024,
        output_bias: bool = False,
        sinks: int = 0,
        persistent: int = 0,
    ):
        window = options.count("window", window)
        super().__init__(
            width, heads, key_heads, rotary, base, window, output_bias=output_bias, sinks=sinks, persistent=persistent
        )
