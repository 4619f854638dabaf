"""Mamba-2: a matrix state per head that decays by one number per time step."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import DeltaRule, Lane, StepInput, constant, shared
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.discretisation import lengthened
from recurra.windows import Past


class Mamba2(Recurrence):
    """S_t = exp(dt_t A) S_{t-1} + dt_t u_t B_t^T,  y_t = S_t C_t + D u_t,  dt_t = softplus(W_dt x_t + b_dt).

    Lane: a head with S: [P, N] and u: [P], P = `head_size`, N = `state_size`; there are H = expand D / P of them. dt,
    A < 0 and D are one number per head. u: [H P], B and C: [groups N] are silu(conv(W_s x)), in that order; H / groups
    heads read the same B_t, C_t: [N]. The result is W_o (w * norm(y * silu(W_g x))), where norm divides by the root
    mean square (plus `eps`) over each group's H P / groups channels. Without `conv_bias` the convolution has none.
    `elapsed` multiplies dt. With `negative_eigenvalues` S_{t-1} is multiplied by 2 exp(dt_t A) - 1, in (-1, 1).
    H P = `inner` where it is not expand D. What W_g, W_s for each of u, B and C, and W_dt give is multiplied by five
    `multipliers`, if there are any; without `normed` the result is W_o (y * silu(W_g x)): as in Falcon-H1.
    dt is at least `least_dt`, as in Nemotron-H.
    Initialisation: A uniform in [-16, -1], dt log-uniform in [0.001, 0.1].

    Source: Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality,
    Dao, Gu, 2024, arXiv:2405.21060. The published P is 64; here it is the largest divisor of it that fits D by default.
    Factors below zero are those of Grazzi et al., 2024, arXiv:2411.12537.
    W_g, W_s and W_dt stacked are the published `in_proj`, one matrix here too.
    """

    lane = Lane.HEAD
    paper = Paper("Transformers are SSMs: Structured State Space Duality", "Dao, Gu", 2024, "2405.21060")

    def __init__(
        self,
        width: int,
        state_size: int = 128,
        head_size: int | None = None,
        expand: int = 2,
        groups: int = 1,
        kernel: int = 4,
        conv_bias: bool = True,
        eps: float = 1e-5,
        negative_eigenvalues: bool = False,
        inner: int | None = None,
        multipliers: Sequence[float] | None = None,
        normed: bool = True,
        least_dt: float = 0.0,
    ):
        super().__init__(width)
        self.eps = options.number("eps", eps, 0)
        self.least_dt = options.number("least_dt", least_dt, 0)
        self.negative_eigenvalues = options.flag("negative_eigenvalues", negative_eigenvalues)
        if self.negative_eigenvalues:  # in chunks a factor is a logarithm, which has no slope where it passes zero
            self.as_delta_rule = None  # type: ignore[assignment, method-assign]
        inner = options.count("expand", expand) * width if inner is None else options.count("inner", inner)
        size = math.gcd(64, inner) if head_size is None else head_size
        size = options.divisor("head_size", size, inner, "inner width")
        heads = inner // size
        self.groups = options.divisor("groups", groups, heads, "number of heads")
        self.shape = (heads, size, options.count("state_size", state_size))
        signal = inner + 2 * groups * state_size
        self.windows = {"conv": (signal, options.count("kernel", kernel) - 1)}
        self.split = [inner, signal, heads]
        self.to_inner = Linear(width, sum(self.split), bias=False)
        self.conv_weight = nn.Parameter(torch.empty(signal, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        around_zero = torch.empty(signal).uniform_(-(kernel**-0.5), kernel**-0.5)
        self.conv_bias = nn.Parameter(around_zero) if options.flag("conv_bias", conv_bias) else None
        self.A_log = nn.Parameter(torch.log(torch.empty(heads).uniform_(1, 16)))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm_weight = nn.Parameter(torch.ones(inner)) if options.flag("normed", normed) else None
        self.multipliers = None if multipliers is None else _five(multipliers)
        self.to_output = Linear(inner, width, bias=False)
        # dt starts log-uniform in [0.001, 0.1]: the bias is the inverse of softplus there.
        dt = torch.exp(torch.rand(heads) * math.log(100) + math.log(0.001)).clamp(min=1e-4)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.shape)}

    def inputs(self, x: Tensor, past: Past, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        heads, size, n = self.shape
        gate, signal, dt = self._multiplied(self.to_inner(x)).split(self.split, -1)
        signal = past.convolve("conv", signal, self.conv_weight, self.conv_bias, silu=True)
        u, B, C = signal.split([heads * size, self.groups * n, self.groups * n], -1)
        return lengthened(x, elapsed) | {
            "u": u.unflatten(-1, (heads, size)),
            "gate": gate.unflatten(-1, (heads, size)),
            "dt": dt + self.dt_bias,
            "B": self._of_heads(B),
            "C": self._of_heads(C),
            "A": constant(-torch.exp(self.A_log)),
            "D": constant(self.D),
        }

    def _multiplied(self, inner: Tensor) -> Tensor:
        if self.multipliers is None:
            return inner
        (heads, size, n), each = self.shape, inner.new_tensor(self.multipliers)
        lengths = [heads * size, heads * size, self.groups * n, self.groups * n, heads]
        return inner * torch.cat([one.expand(length) for one, length in zip(each, lengths, strict=True)])

    def _of_heads(self, of_groups: Tensor) -> StepInput:
        """[B, T, groups N] as every head reads it."""
        if self.groups == 1:
            return shared(of_groups)
        heads = self.shape[0]
        return StepInput(of_groups.unflatten(-1, (self.groups, -1)).repeat_interleave(heads // self.groups, 2))

    def _steps(self, dt: Tensor) -> Tensor:
        dt = nn.functional.softplus(dt)
        return dt.clamp(min=self.least_dt) if self.least_dt else dt

    def _factor(self, dt: Tensor, A: Tensor, elapsed: Tensor | None) -> tuple[Tensor, Tensor]:
        """dt, and what S_{t-1} is multiplied by."""
        dt = self._steps(dt)
        dt = dt if elapsed is None else elapsed * dt
        decay = torch.exp(dt * A)
        return dt, 2 * decay - 1 if self.negative_eigenvalues else decay

    def step(
        self, S: Tensor, u: Tensor, gate: Tensor, dt: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor,
        elapsed: Tensor | None = None,
    ):  # fmt: skip
        dt, factor = self._factor(dt, A, elapsed)
        S = factor * S + torch.outer(dt * u, B)
        return S, (S @ C + D * u) * nn.functional.silu(gate)

    def as_delta_rule(
        self, S: Tensor, u: Tensor, gate: Tensor, dt: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor,
        elapsed: Tensor | None = None,
    ) -> DeltaRule:  # fmt: skip
        dt, gating = self._steps(dt), nn.functional.silu(gate)
        dt = dt if elapsed is None else elapsed * dt
        skip = D[..., None] * u
        return DeltaRule(C, B, dt[..., None] * u, S, log_decay=dt * A, result=lambda o, S: (S, (o + skip) * gating))

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        if self.norm_weight is None:
            return self.to_output(y.flatten(2))
        y = y.flatten(2).unflatten(-1, (self.groups, -1))
        normed = rms_norm(y, None, self.eps).flatten(2)
        return self.to_output(self.norm_weight.to(normed.dtype) * normed)


def _five(multipliers: Sequence[float]) -> list[float]:
    if not isinstance(multipliers, Sequence) or len(multipliers) != 5:
        raise InputError(f"multipliers is {options.shown(multipliers)}; expected five numbers")
    return [options.number("multipliers", one, -options.MOST) for one in multipliers]
