"""Aaren: softmax attention with a fixed query, as a recurrence over keys and values."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, cast, compute_dtype
from recurra.recurrence import Paper, Recurrence, in_type_of


class Aaren(Recurrence):
    """s_t = q . k_t / sqrt(d),  m_t = max(m_{t-1}, s_t)
    u_t = exp(m_{t-1} - m_t) u_{t-1} + exp(s_t - m_t)
    w_t = exp(m_{t-1} - m_t) w_{t-1} + exp(s_t - m_t) v_t,  y_t = w_t / u_t = sum_i softmax(s_1..t)_i v_i.

    Lane: a head with m and u numbers and w, q, k, v: [d], d = D/heads. k = W_k x, v = W_v x; the query q is learned
    and the same at all times. The result is W_o y. While nothing has been seen (u = 0) m_{t-1} stands for -infinity.

    Source: Attention as an RNN, Feng, Tung, Hajimirsadeghi, Ahmed, Bengio, Mori, 2024, arXiv:2405.13956. The paper
    projects its learned query token by W_q, which is folded into q here.
    """

    lane = Lane.HEAD
    paper = Paper("Attention as an RNN", "Feng, Tung, Hajimirsadeghi, Ahmed, Bengio, Mori", 2024, "2405.13956")

    def __init__(self, width: int, heads: int = 4):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.size = width // heads
        self.query = nn.Parameter(torch.randn(heads, self.size))
        self.to_key = Linear(width, width, bias=False)
        self.to_value = Linear(width, width, bias=False)
        self.to_output = Linear(width, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        zero = torch.zeros(self.heads)
        return {"m": zero, "u": zero, "w": torch.zeros(self.heads, self.size)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        # Which score is largest decides where gradients go, so scores are not rounded to half types on the way.
        dtype = compute_dtype(x.dtype)
        key = in_type_of(cast(x, dtype), self.to_key).unflatten(-1, (self.heads, -1))
        return {
            "score": (key * (cast(self.query, dtype) / math.sqrt(self.size))).sum(-1),
            "value": self.to_value(x).unflatten(-1, (self.heads, -1)),
        }

    def step(self, m: Tensor, u: Tensor, w: Tensor, score: Tensor, value: Tensor):
        # An empty state takes the first score as its maximum: 0 times exp(-score) would be NaN where that overflows.
        m = torch.where(u == 0, score, m)
        new_m = torch.maximum(m, score)
        keep, admit = torch.exp(m - new_m), torch.exp(score - new_m)
        u = keep * u + admit
        w = keep * w + admit * value
        return (new_m, u, w), w / u

    def combine(self, earlier: tuple[Tensor, ...], later: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The softmax sums of two neighbouring stretches of time, brought to the larger of their maxima."""
        (m0, u0, w0), (m1, u1, w1) = earlier, later
        m0, m1 = torch.where(u0 == 0, m1, m0), torch.where(u1 == 0, m0, m1)
        m = torch.maximum(m0, m1)
        a, b = torch.exp(m0 - m), torch.exp(m1 - m)
        return m, a * u0 + b * u1, a * w0 + b * w1

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))
