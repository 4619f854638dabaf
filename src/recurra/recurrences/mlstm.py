"""mLSTM: an LSTM with a matrix for a memory and exponential gates, in xLSTM's block."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import DeltaRule, Lane
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.blocks import by_blocks
from recurra.windows import Past


class MLSTM(Recurrence):
    """log f = log sigmoid(f~_t);  m_t = max(log f + m_{t-1}, i~_t);  f' = exp(log f + m_{t-1} - m_t)
    i' = exp(i~_t - m_t);  C_t = f' C_{t-1} + i' v_t k_t^T;  n_t = f' n_{t-1} + i' k_t
    h_t = C_t q_t / (max(|n_t . q_t|, exp(-m_t)) + 1e-6).

    Lane: a head, C: [d, d], n: [d], m: a number; d = E / heads, E = expand D. With s = W_s x and u = silu(conv(s)):
    q = W_q u, k = W_k u / sqrt(d), v = W_v s, where these W are block-diagonal with blocks of `block` channels; i~ and
    f~ are affine in [q, sqrt(d) k, v]. The result is W_o ((w * norm(h) + skip * u) * silu(W_z x)), norm being a layer
    norm over each head.
    Initialisation: f~ spread over [3, 6] from head to head and i~ about 0, whatever x is.

    Source: xLSTM: Extended Long Short-Term Memory, Beck, Pöppel, Spanring, Auer et al., 2024, arXiv:2405.04517, and its
    published code, from which the 1e-6 and m_0 = 0 come; m changes nothing else, it keeps numbers small. That code
    rounds E up to a multiple of 64.
    """

    lane = Lane.HEAD
    paper = Paper("xLSTM: Extended Long Short-Term Memory", "Beck et al.", 2024, "2405.04517")

    def __init__(self, width: int, heads: int = 4, expand: int = 2, kernel: int = 4, block: int = 4):
        super().__init__(width)
        inner = options.count("expand", expand) * width
        self.heads = options.divisor("heads", heads, inner, "inner width")
        options.divisor("block", block, inner, "inner width")
        self.windows = {"conv": (inner, options.count("kernel", kernel) - 1)}
        small = math.sqrt(2 / (5 * width))
        self.to_signal = Linear(width, inner, bias=False)
        self.to_gate = Linear(width, inner, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(inner, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.conv_bias = nn.Parameter(torch.empty(inner).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.to_query, self.to_key, self.to_value = (
            nn.Parameter(torch.randn(inner // block, block, block) * small) for _ in range(3)
        )
        self.to_input = Linear(3 * inner, heads)
        self.to_forget = Linear(3 * inner, heads)
        self.norm_weight = nn.Parameter(torch.ones(inner))
        self.skip = nn.Parameter(torch.ones(inner))
        self.to_output = Linear(inner, width, bias=False)
        with torch.no_grad():
            for layer, scale in ((self.to_signal, small), (self.to_gate, small), (self.to_output, 2 * width**-0.5)):
                layer.weight.normal_(0, scale)
            self.to_input.weight.zero_()
            self.to_input.bias.normal_(0, 0.1)
            self.to_forget.weight.zero_()
            self.to_forget.bias.copy_(torch.linspace(3, 6, heads))

    def start(self) -> dict[str, Tensor]:
        size = len(self.skip) // self.heads
        return {
            "C": torch.zeros(self.heads, size, size),
            "n": torch.zeros(self.heads, size),
            "m": torch.zeros(self.heads),
        }

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor]:
        signal = self.to_signal(x)
        u = past.convolve("conv", signal, self.conv_weight, self.conv_bias, silu=True)
        q, k, v = by_blocks(u, self.to_query), by_blocks(u, self.to_key), by_blocks(signal, self.to_value)
        qkv = torch.cat([q, k, v], -1)
        vectors = {"q": q, "k": k, "v": v, "u": u}
        return {name: value.unflatten(-1, (self.heads, -1)) for name, value in vectors.items()} | {
            "i": self.to_input(qkv),
            "f": self.to_forget(qkv),
        }

    def step(
        self, C: Tensor, n: Tensor, m: Tensor, q: Tensor, k: Tensor, v: Tensor, u: Tensor, i: Tensor, f: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        kept = m - nn.functional.softplus(-f)
        m = torch.maximum(kept, i)
        keep, admit = torch.exp(kept - m), torch.exp(i - m)
        k = k / math.sqrt(k.shape[0])
        C = keep * C + admit * torch.outer(v, k)
        n = keep * n + admit * k
        h = C @ q / (torch.maximum((n * q).sum().abs(), torch.exp(-m)) + 1e-6)
        # The skip past the memory joins after the norm, which needs whole time steps: u goes along.
        return (C, n, m), torch.stack([h, u])

    def as_delta_rule(
        self, C: Tensor, n: Tensor, m: Tensor, q: Tensor, k: Tensor, v: Tensor, u: Tensor, i: Tensor, f: Tensor
    ) -> DeltaRule:
        rule = normalised(C, n, m, q, k / math.sqrt(k.shape[-1]), v, i, f)
        assert rule.result is not None
        read = rule.result

        def result(o: Tensor, S: Tensor, m: Tensor) -> tuple[Any, Tensor]:
            states, h = read(o, S, m)
            return states, torch.stack([h, u], 3)

        return replace(rule, result=result)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        h, u = y.unbind(3)
        weight, skip = self.norm_weight.to(x.dtype), self.skip.to(x.dtype)
        normed = nn.functional.layer_norm(h, h.shape[-1:]).flatten(2) * weight
        return self.to_output((normed + skip * u.flatten(2)) * nn.functional.silu(self.to_gate(x)))


def normalised(C: Tensor, n: Tensor, m: Tensor, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> DeltaRule:
    """mLSTM's memory for all time steps at once: n is one more row of C, which a value of 1 is written to."""
    one = torch.ones_like(v[..., :1])

    def result(o: Tensor, S: Tensor, m: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        largest = torch.maximum(o[..., -1].abs(), torch.exp(-m)) + 1e-6
        return (S[..., :-1, :], S[..., -1, :], m[:, -1]), o[..., :-1] / largest[..., None]

    return DeltaRule(
        q, k, torch.cat([v, one], -1), torch.cat([C, n[..., None, :]], -2),
        log_decay=-nn.functional.softplus(-f), log_write=i, peak=m, result=result,
    )  # fmt: skip
