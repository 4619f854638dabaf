"""Gated DeltaNet: the delta rule on a matrix memory that also forgets as a whole."""

import math

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


class GatedDeltaNet(Recurrence):
    """S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T,  o_t = S_t q_t / sqrt(K)
    alpha_t = exp(-exp(A_log) softplus(a_t + dt_bias)),  beta_t = sigmoid(b_t).

    Lane: a (value) head, S: [V, K]; q, k: [K], v: [V]; alpha, beta: numbers. q, k = unit(silu(conv(..))) and
    v = silu(conv(..)) of linear maps of x, as are the gate z: [V] and a, b. The result is W_o (rmsnorm(o) * silu(z)),
    the norm within each head. `key_heads`, a divisor of `heads`, says how many different q and k there are: value head
    h reads number h // (heads / key_heads). K = `key_size`, by default 3/4 of D / heads, rounded up;
    V = `value_size`, by default 2 K. By default there are as many heads as keep K at 256 or less, two at least. beta is
    twice as large with `negative_eigenvalues`.
    Initialisation: exp(A_log) uniform in (0, 16], softplus(dt_bias) log-uniform in [0.001, 0.1].

    Source: Gated Delta Networks: Improving Mamba2 with Delta Rule, Yang, Kautz, Hatamizadeh, 2024, arXiv:2412.06464.
    Departures: 1 / sqrt(K), unit's 1e-6 under the root, and key heads are those of Qwen3-Next. The rows of `to_qkvz`
    (for each key head q, k, v, z), of `to_ba` (b, a) and the channels of `conv_weight` (all q, all k, all v) lie as in
    its checkpoints: its weights can be copied in.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Gated Delta Networks: Improving Mamba2 with Delta Rule", "Yang, Kautz, Hatamizadeh", 2024, "2412.06464"
    )

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        key_heads: int | None = None,
        key_size: int | None = None,
        value_size: int | None = None,
        kernel: int = 4,
        norm_eps: float = 1e-5,
        negative_eigenvalues: bool = False,
    ):
        super().__init__(width)
        heads = self.heads = head_count(None, width, 341) if heads is None else options.count("heads", heads)
        self.key_heads = heads if key_heads is None else options.divisor("key_heads", key_heads, heads, "heads")
        self.K = math.ceil(0.75 * width / heads) if key_size is None else options.count("key_size", key_size)
        self.V = 2 * self.K if value_size is None else options.count("value_size", value_size)
        self.largest_beta = 2.0 if options.flag("negative_eigenvalues", negative_eigenvalues) else 1.0
        self.norm_eps = options.number("norm_eps", norm_eps, 0)
        keys, values = self.key_heads * self.K, heads * self.V
        self.parts = [keys, keys, values]
        self.windows = {"conv": (sum(self.parts), options.count("kernel", kernel) - 1)}
        self.to_qkvz = Linear(width, 2 * keys + 2 * values, bias=False)
        self.to_ba = Linear(width, 2 * heads, bias=False)
        bound = kernel**-0.5
        self.conv_weight = nn.Parameter(torch.empty(sum(self.parts), kernel).uniform_(-bound, bound))
        self.dt_bias = nn.Parameter(softplus_steps(heads))
        self.A_log = nn.Parameter(torch.log(16 * (1 - torch.rand(heads))))
        self.norm_weight = nn.Parameter(torch.ones(self.V))
        self.to_output = Linear(values, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, self.V, self.K)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor]:
        qkv = torch.cat([part.flatten(2) for part in self._qkvz(x)[:3]], -1)
        qkv = past.convolve("conv", qkv, self.conv_weight, silu=True)
        q, k, v = qkv.split(self.parts, -1)
        q, k = (unit(part.unflatten(-1, (self.key_heads, -1))) for part in (q, k))
        group = self.heads // self.key_heads
        b, a = (part.flatten(2) for part in self.to_ba(x).unflatten(-1, (self.key_heads, -1)).chunk(2, -1))
        return {
            "q": q.repeat_interleave(group, 2) * self.K**-0.5,
            "k": k.repeat_interleave(group, 2),
            "v": v.unflatten(-1, (self.heads, -1)),
            "log_decay": -torch.exp(self.A_log) * nn.functional.softplus(a + self.dt_bias),
            "beta": self.largest_beta * torch.sigmoid(b),
        }

    def step(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor):
        S = torch.exp(log_decay) * S
        S = S + beta * torch.outer(v - S @ k, k)
        return S, S @ q

    def as_delta_rule(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> DeltaRule:
        return DeltaRule(q, k, v, S, beta, log_decay)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        gate = nn.functional.silu(self._qkvz(x)[3].reshape(y.shape))
        return self.to_output((rms_norm(y, self.norm_weight, self.norm_eps) * gate).flatten(2))

    def _qkvz(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k, v, z as [B, T, key heads, ...]."""
        group = self.heads // self.key_heads
        sizes = [self.K, self.K, group * self.V, group * self.V]
        return self.to_qkvz(x).unflatten(-1, (self.key_heads, -1)).split(sizes, -1)
