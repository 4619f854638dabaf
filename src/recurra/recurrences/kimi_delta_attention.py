"""Kimi delta attention: a delta rule whose memory forgets each key channel at a rate of its own."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import DeltaRule, Lane
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.delta_net import head_count, unit
from recurra.recurrences.discretisation import softplus_steps
from recurra.windows import Past


class KimiDeltaAttention(Recurrence):
    """S' = S_{t-1} diag(a_t),  S_t = S' + beta_t (v_t - S' k_t) k_t^T,  o_t = S_t q_t / sqrt(K)
    a_t = exp(-exp(A_log) softplus(W_2 W_1 x_t + dt_bias)),  beta_t = sigmoid(w x_t).

    Lane: a (value) head, S: [K, K], K = `size`, by default D / heads, 128 at most; q, k, v, a: [K]; beta: a number,
    twice as large with `negative_eigenvalues`; A_log: a number per head, dt_bias: [H K]; W_1: [K, D]. q and k are
    unit(silu(conv(..))), v is silu(conv(..)) of linear maps of x. `key_heads`, a divisor of `heads`, says how many
    different q and k there are: head h reads number h // (heads / key_heads). The result is
    W_o (rmsnorm(o) * sigmoid(W_4 W_3 x + b)), W_3: [K, D], the norm within each head,
    `norm_eps` under its root; without `gate_bias` there is no b. With `full_rank`, one [H K, D] stands in place of
    W_2 W_1, and one of W_4 W_3. With a `lower_bound`, a_t = exp(lower_bound sigmoid(exp(A_log) (W_2 W_1 x + dt_bias))).
    Initialisation: exp(A_log) uniform in [1, 16), softplus(dt_bias) log-uniform in [0.001, 0.1].

    Source: Kimi Linear: An Expressive, Efficient Attention Architecture, Kimi Team, 2025, arXiv:2510.26692; ranges of
    the start, 1e-6 under unit's root and key heads as in flash-linear-attention; a bound and full rank are Ling 3's.
    """

    lane = Lane.HEAD
    paper = Paper("Kimi Linear: An Expressive, Efficient Attention Architecture", "Kimi Team", 2025, "2510.26692")

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        kernel: int = 4,
        negative_eigenvalues: bool = False,
        size: int | None = None,
        gate_bias: bool = True,
        norm_eps: float = 1e-5,
        full_rank: bool = False,
        lower_bound: float | None = None,
        key_heads: int | None = None,
    ):
        super().__init__(width)
        if size is None:
            heads = head_count(heads, width, 128)
            size = width // heads
        self.heads, self.size = options.count("heads", heads), options.count("size", size)
        self.norm_eps, self.inner = options.number("norm_eps", norm_eps, 0), self.heads * self.size
        self.largest_beta = 2.0 if options.flag("negative_eigenvalues", negative_eigenvalues) else 1.0
        key_heads = self.heads if key_heads is None else options.divisor("key_heads", key_heads, self.heads, "heads")
        self.parts = [key_heads * self.size, key_heads * self.size, self.inner]
        self.windows = {"conv": (sum(self.parts), options.count("kernel", kernel) - 1)}
        self.to_qkv = Linear(width, sum(self.parts), bias=False)
        bound = kernel**-0.5
        self.conv_weight = nn.Parameter(torch.empty(sum(self.parts), kernel).uniform_(-bound, bound))
        self.bound = None if lower_bound is None else options.number("lower_bound", lower_bound, -options.MOST, 0)
        rank = None if options.flag("full_rank", full_rank) else self.size
        self.to_decay, gate_bias = _map(width, rank, self.inner), options.flag("gate_bias", gate_bias)
        self.dt_bias = nn.Parameter(softplus_steps(self.inner))
        self.A_log = nn.Parameter(torch.log(torch.empty(self.heads).uniform_(1, 16)))
        self.to_gate = _map(width, rank, self.inner, gate_bias)
        self.norm_weight = nn.Parameter(torch.ones(self.size))
        self.to_output = Linear(self.inner, width, bias=False)
        self._make_rates()

    def _make_rates(self) -> None:
        self.to_beta = Linear(self.width, self.heads, bias=False)

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, self.size, self.size)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor]:
        qkv = past.convolve("conv", self.to_qkv(x), self.conv_weight, silu=True)
        q, k, v = (part.unflatten(-1, (-1, self.size)) for part in qkv.split(self.parts, -1))
        group = self.inner // self.parts[0]
        q, k = (part.repeat_interleave(group, 2) for part in (unit(q) * self.size**-0.5, unit(k)))
        decay = {"log_decay": self._log_decay(self.to_decay(x) + self.dt_bias)}
        return {"q": q, "k": k, "v": v} | decay | self._rates(x)

    def _log_decay(self, dt: Tensor) -> Tensor:
        if self.bound is None:
            return -torch.exp(self.A_log)[:, None] * nn.functional.softplus(dt).unflatten(-1, (self.heads, -1))
        return self.bound * torch.sigmoid(torch.exp(self.A_log)[:, None] * dt.unflatten(-1, (self.heads, -1)))

    def _rates(self, x: Tensor) -> dict[str, Tensor]:
        """What says how much is erased and written."""
        return {"beta": self.largest_beta * torch.sigmoid(self.to_beta(x))}

    def step(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor):
        S = S * torch.exp(log_decay)
        S = S + beta * torch.outer(v - S @ k, k)
        return S, S @ q

    def as_delta_rule(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> DeltaRule:
        return DeltaRule(q, k, v, S, beta, log_decay)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.to_gate(x)).unflatten(-1, (self.heads, -1))
        return self.to_output((rms_norm(y, self.norm_weight, self.norm_eps) * gate).flatten(2))


def _map(width: int, rank: int | None, inner: int, bias: bool = False) -> nn.Module:
    last = Linear(rank or width, inner, bias=bias)
    return last if rank is None else nn.Sequential(Linear(width, rank, bias=False), last)
