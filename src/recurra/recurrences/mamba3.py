"""Mamba-3: a matrix state that turns as it decays, written by the trapezoidal rule, by one or several inputs a head."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import DeltaRule, Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.complex_rule import complex_rule
from recurra.recurrences.discretisation import softplus_steps
from recurra.windows import Past


class Mamba3(Recurrence):
    """S_t = a_t exp(i dt_t theta_t) (S_{t-1} + (1 - l_t) dt_t W_{t-1}) + l_t dt_t W_t,  W = sum_r conj(k_r) v_r^T
    y_t = sum_r down_r (Re(S_t^T q_{t,r}) + D v_{t,r}) silu(gate_r z_t),  v_r = up_r u,  r = 1 .. R.

    Lane: a head, S: [N/2, P] complex, P = `head_size`, N = `state_size`, of expand D / P heads; u, z: [P]; q_r, k_r:
    [N/2] complex, neighbouring channels of C and B, which H / groups heads share, over their root mean square, with
    weights [N], plus biases of each head. R = `rank` is 1 (SISO), without up, gate and down, or more (MIMO).
    a = exp(-dt f(.)), f(x) = x + 1 for x > 0 and 1 / (1 - x) below, 1e-4 at least; dt = softplus(. + dt_bias),
    l = sigmoid(.), theta = pi tanh(.) in the first `rotary` N / 2 places, else 0; . is linear in x. The result: W_o y.
    Initialisation: biases, D, gate = 1, up = down = 1 / R, softplus(dt_bias) log-uniform in [0.001, 0.1].

    Source: Mamba-3: Improved Sequence Modeling using State Space Principles, Lahoti, Li, Chen, Wang, Bick, Kolter, Dao,
    Gu, 2026, arXiv:2603.15569, and its published code, where q and k are turned by the sum of all angles so far; here
    the state turns. The optional norm before W_o is not here.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Mamba-3: Improved Sequence Modeling using State Space Principles", "Lahoti et al.", 2026, "2603.15569"
    )

    def __init__(
        self, width: int, state_size: int = 128, head_size: int | None = None, expand: int = 2, groups: int = 1,
        rank: int = 1, rotary: float = 0.5,
    ):  # fmt: skip
        super().__init__(width)
        inner, N = options.count("expand", expand) * width, options.count("state_size", state_size)
        if N % 2:
            raise InputError(f"state_size is {N}; expected an even number: two channels are a complex one")
        size = math.gcd(64, inner) if head_size is None else head_size
        H = self.heads = inner // options.divisor("head_size", size, inner, "inner width")
        self.groups, self.rank = options.divisor("groups", groups, H, "number of heads"), options.count("rank", rank)
        self.still = N // 2 - int(options.number("rotary", rotary, 0, 1 + 1e-9) * N) // 2
        self.split = [inner, inner, groups * rank * N, groups * rank * N, H, H, H, N // 2 - self.still]
        self.windows = {"before": (self.split[2] + inner, 1)}
        self.to_inner = Linear(width, sum(self.split), bias=False)
        self.dt_bias = nn.Parameter(softplus_steps(H))
        self.norm_weight = nn.Parameter(torch.ones(2, N))  # of B, of C
        self.key_bias, self.query_bias = (nn.Parameter(torch.ones(H, rank, N)) for _ in range(2))
        self.D = nn.Parameter(torch.ones(H))
        if rank > 1:
            self.as_delta_rule = None  # type: ignore[assignment, method-assign]  # it has one query
            self.up, self.gate, self.down = (
                nn.Parameter(torch.full((H, rank, size), n)) for n in (1 / rank, 1.0, 1 / rank)
            )
        self.to_output = Linear(inner, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        shape = self.heads, self.norm_weight.shape[1] // 2, self.split[0] // self.heads
        return {"S": torch.zeros(shape, dtype=torch.complex64)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        z, u, B, C, dt, decay, share, angle = self.to_inner(x).split(self.split, -1)
        now, before = past.lags("before", torch.cat([B, u], -1))
        B, u = torch.stack([before, now], 2).split([B.shape[-1], u.shape[-1]], -1)
        dt, share = nn.functional.softplus(dt + self.dt_bias), torch.sigmoid(share)
        fading = decay.clamp(min=0) + 1 / (1 - decay.clamp(max=0))
        inputs: dict[str, Tensor | StepInput] = {
            "q": self._of_heads(C, 1, self.query_bias),
            "k": self._of_heads(B, 0, self.key_bias).transpose(2, 3),
            "u": u.unflatten(-1, (self.heads, -1)).transpose(2, 3),
            "z": z.unflatten(-1, (self.heads, -1)),
            "rates": torch.stack([(1 - share) * dt, share * dt], -1),
            "log_decay": -fading.clamp(min=1e-4) * dt,
            "angle": nn.functional.pad(math.pi * torch.tanh(angle), (0, self.still))[:, :, None] * dt[..., None],
            "D": constant(self.D),
        }
        several = ("up", "gate", "down") if self.rank > 1 else ()
        return inputs | {name: constant(getattr(self, name)) for name in several}

    def _of_heads(self, keys: Tensor, which: int, bias: Tensor) -> Tensor:
        """[..., R groups N] as every head reads it, [..., H, R, N/2, 2]."""
        normed = rms_norm(keys.unflatten(-1, (self.rank, self.groups, -1)), self.norm_weight[which], 1e-5)
        keys = normed.transpose(-3, -2).repeat_interleave(self.heads // self.groups, -3) + bias.to(normed.dtype)
        return keys.unflatten(-1, (-1, 2))

    def step(
        self, S: Tensor, q: Tensor, k: Tensor, u: Tensor, z: Tensor, rates: Tensor, log_decay: Tensor, angle: Tensor,
        D: Tensor, up: Tensor | None = None, gate: Tensor | None = None, down: Tensor | None = None,
    ):  # fmt: skip
        v, z = (t[..., None, :] if w is None else w * t[..., None, :] for t, w in ((u, up), (z, gate)))
        written = k.movedim(-1, 0).mT @ (rates[:, None, None] * v)  # real and imaginary part, before and now
        before, now = torch.complex(written[0], -written[1])
        a = torch.exp(log_decay)
        S = torch.complex(a * torch.cos(angle), a * torch.sin(angle))[:, None] * (S + before) + now
        y = (q[..., 0] @ S.real - q[..., 1] @ S.imag + D * v[1]) * nn.functional.silu(z)
        return S, (y if down is None else down * y).sum(0)

    def as_delta_rule(
        self, S: Tensor, q: Tensor, k: Tensor, u: Tensor, z: Tensor, rates: Tensor, log_decay: Tensor, angle: Tensor,
        D: Tensor,
    ) -> DeltaRule:  # fmt: skip
        # Two writes: that of the time step before turns and fades as S does.
        turn = torch.polar(torch.exp(log_decay)[..., None], -angle)
        before = torch.view_as_real(torch.view_as_complex(k[..., 0, 0, :, :].contiguous()) * turn)
        k, skip, gate = (
            torch.stack([before, k[..., 1, 0, :, :]], -3),
            D[..., None] * u[..., 1, :],
            nn.functional.silu(z),
        )
        v, q = rates[..., None] * u, q[..., 0, :, :]
        return complex_rule(S, q, k, v, log_decay, angle, lambda o: (o + skip) * gate)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))
