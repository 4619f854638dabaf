"""The mLSTM layer of xLSTM 7B: narrow keys, capped gates, no convolution."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import DeltaRule, Lane
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.mlstm import normalised


class XLSTM7B(Recurrence):
    """log f = log sigmoid(f~_t);  m_t = max(log f + m_{t-1}, i~_t);  f' = exp(log f + m_{t-1} - m_t)
    i' = exp(i~_t - m_t);  C_t = f' C_{t-1} + i' v_t k_t^T;  n_t = f' n_{t-1} + i' k_t
    h_t = C_t q_t / (max(|n_t . q_t|, exp(-m_t)) + 1e-6).

    Lane: a head, C: [V, K], n: [K], m: a number, V = `value` D / heads, K = `key` D / heads. q = W_q x / sqrt(K),
    k = W_k x, v = W_v x; i~ and f~ are affine in x, then capped: c tanh(. / c), c = `cap`. The result is
    W_o (sigmoid(W_z x) * w * norm(h)), norm being a layer norm over each head with `eps`.
    Initialisation: f~ spread over [3, 6] from head to head and i~ = -10, whatever x is.

    Source: xLSTM 7B: A Recurrent LLM for Fast and Efficient Inference, Beck, Pöppel, Lippe, Kurle, Blies, Klambauer,
    Böck, Hochreiter, 2025, arXiv:2503.13427, and its published code, from which the 1e-6 and m_0 = 0 come.
    """

    lane = Lane.HEAD
    paper = Paper("xLSTM 7B: A Recurrent LLM for Fast and Efficient Inference", "Beck et al.", 2025, "2503.13427")

    def __init__(
        self, width: int, heads: int = 4, key: float = 0.5, value: float = 1.0, cap: float = 15.0, eps: float = 1e-6
    ):
        super().__init__(width)
        keys = options.count("width times key", int(self.width * options.number("key", key, 0)))
        values = options.count("width times value", int(self.width * options.number("value", value, 0)))
        self.heads = options.divisor("heads", heads, math.gcd(keys, values), "widths of keys and values, which share")
        self.sizes = (values // heads, keys // heads)
        self.cap, self.eps = options.number("cap", cap, 1e-3), options.number("eps", eps, 0)
        self.to_query = Linear(width, keys, bias=False)
        self.to_key = Linear(width, keys, bias=False)
        self.to_value = Linear(width, values, bias=False)
        self.to_gate = Linear(width, values, bias=False)
        self.to_input = Linear(width, heads)
        self.to_forget = Linear(width, heads)
        self.norm_weight = nn.Parameter(torch.ones(values))
        self.to_output = Linear(values, width, bias=False)
        with torch.no_grad():
            for gate, bias in (
                (self.to_input, torch.full((heads,), -10.0)),
                (self.to_forget, torch.linspace(3, 6, heads)),
            ):
                gate.weight.zero_()
                gate.bias.copy_(bias)

    def start(self) -> dict[str, Tensor]:
        values, keys = self.sizes
        return {
            "C": torch.zeros(self.heads, values, keys),
            "n": torch.zeros(self.heads, keys),
            "m": torch.zeros(self.heads),
        }

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        vectors = {"q": self.to_query(x) / math.sqrt(self.sizes[1]), "k": self.to_key(x), "v": self.to_value(x)}
        gates = {"i": self.to_input(x), "f": self.to_forget(x)}
        return {name: value.unflatten(-1, (self.heads, -1)) for name, value in vectors.items()} | {
            name: self.cap * torch.tanh(value / self.cap) for name, value in gates.items()
        }

    def step(
        self, C: Tensor, n: Tensor, m: Tensor, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        kept = m - nn.functional.softplus(-f)
        m = torch.maximum(kept, i)
        keep, admit = torch.exp(kept - m), torch.exp(i - m)
        C = keep * C + admit * torch.outer(v, k)
        n = keep * n + admit * k
        return (C, n, m), C @ q / (torch.maximum((n * q).sum().abs(), torch.exp(-m)) + 1e-6)

    def as_delta_rule(
        self, C: Tensor, n: Tensor, m: Tensor, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor
    ) -> DeltaRule:
        return normalised(C, n, m, q, k, v, i, f)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        normed = nn.functional.layer_norm(y, y.shape[-1:], eps=self.eps).flatten(2) * self.norm_weight.to(y.dtype)
        return self.to_output(torch.sigmoid(self.to_gate(x)) * normed)
