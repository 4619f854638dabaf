"""Mamba-3: a matrix state that turns as it decays, written by the trapezoidal rule, by one or several inputs a head."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.discretisation import softplus_steps
from recurra.windows import Past


class Mamba3(Recurrence):
    """S_t = a_t exp(i dt_t theta_t) (S_{t-1} + (1 - l_t) dt_t W_{t-1}) + l_t dt_t W_t,  W = sum_r conj(k_r) v_r^T
    y_t = sum_r down_r (Re(S_t^T q_{t,r}) + D v_{t,r}) silu(gate_r z_t),  v_r = up_r u,  r = 1 .. R.

    Lane: a head, S: [N/2, P] complex, P = `head_size`, N = `state_size`, of expand D / P heads; u, z: [P];
    q_r, k_r: [N/2] complex, neighbouring channels of C and B as real and imaginary part, each divided by its root mean
    square, with weights [N], and a bias of each head added; H / groups heads read the same. R = `rank` is 1 (SISO),
    where up, gate and down are not there, or more (MIMO). a = exp(-dt f(.)) with f(x) = x + 1 for x > 0 and
    1 / (1 - x) below, 1e-4 at least; dt = softplus(. + dt_bias), l = sigmoid(.), theta = pi tanh(.) in the first
    `rotary` N / 2 places, 0 in the others; all . linear in x. The result is W_o y.
    Initialisation: biases of q and k 1, up = down = 1 / R, gate = 1, D = 1, softplus(dt_bias) log-uniform in
    [0.001, 0.1].

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
        self.size = options.divisor(
            "head_size", math.gcd(64, inner) if head_size is None else head_size, inner, "inner width"
        )
        heads = self.heads = inner // self.size
        self.groups, self.rank = (
            options.divisor("groups", groups, heads, "number of heads"),
            options.count("rank", rank),
        )
        self.pairs, self.turning = N // 2, int(options.number("rotary", rotary, 0, 1 + 1e-9) * N) // 2
        keys = groups * rank * N
        self.split = [inner, inner, keys, keys, heads, heads, heads, self.turning]
        self.windows = {"before": (keys + inner, 1)}
        self.to_inner = Linear(width, sum(self.split), bias=False)
        self.dt_bias = nn.Parameter(softplus_steps(heads))
        self.norm_weight = nn.Parameter(torch.ones(2, N))  # of B, of C
        self.key_bias, self.query_bias = (nn.Parameter(torch.ones(heads, rank, N)) for _ in range(2))
        self.D = nn.Parameter(torch.ones(heads))
        if rank > 1:
            self.up, self.down = (nn.Parameter(torch.full((heads, rank, self.size), 1 / rank)) for _ in range(2))
            self.gate = nn.Parameter(torch.ones(heads, rank, self.size))
        self.to_output = Linear(inner, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, self.pairs, self.size, dtype=torch.complex64)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        z, u, B, C, dt, decay, share, angle = self.to_inner(x).split(self.split, -1)
        (B, u), (B_before, u_before) = (
            t.split(self.split[2:0:-1], -1) for t in past.lags("before", torch.cat([B, u], -1))
        )
        dt = nn.functional.softplus(dt + self.dt_bias)
        fading = decay.clamp(min=0) + 1 / (1 - decay.clamp(max=0))
        turned = nn.functional.pad(math.pi * torch.tanh(angle), (0, self.pairs - self.turning))
        inputs: dict[str, Tensor | StepInput] = {
            "q": self._of_heads(C, 1, self.query_bias),
            "k": self._of_heads(B, 0, self.key_bias),
            "k_before": self._of_heads(B_before, 0, self.key_bias),
            "dt": dt,
            "log_decay": -fading.clamp(min=1e-4) * dt,
            "share": torch.sigmoid(share),
            "angle": turned[:, :, None] * dt[..., None],
            "D": constant(self.D),
        }
        inputs |= {n: t.unflatten(-1, (self.heads, -1)) for n, t in {"u": u, "u_before": u_before, "z": z}.items()}
        several = {"up": self.up, "gate": self.gate, "down": self.down} if self.rank > 1 else {}
        return inputs | {name: constant(value) for name, value in several.items()}

    def _of_heads(self, keys: Tensor, which: int, bias: Tensor) -> Tensor:
        """[B, T, R groups N] as every head reads it, [B, T, H, R, N/2, 2]."""
        normed = rms_norm(keys.unflatten(-1, (self.rank, self.groups, -1)), self.norm_weight[which], 1e-5)
        keys = normed.transpose(2, 3).repeat_interleave(self.heads // self.groups, 2) + bias.to(normed.dtype)
        return keys.unflatten(-1, (-1, 2))

    def step(
        self, S: Tensor, q: Tensor, k: Tensor, k_before: Tensor, u: Tensor, u_before: Tensor, z: Tensor, dt: Tensor,
        log_decay: Tensor, share: Tensor, angle: Tensor, D: Tensor, up: Tensor | None = None,
        gate: Tensor | None = None, down: Tensor | None = None,
    ):  # fmt: skip
        v, v_before, z = (t[None] if w is None else w * t for t, w in ((u, up), (u_before, up), (z, gate)))
        a = torch.exp(log_decay)
        turn = torch.complex(a * torch.cos(angle), a * torch.sin(angle))[:, None]
        S = turn * (S + _written(k_before, (1 - share) * dt * v_before)) + _written(k, share * dt * v)
        y = q[..., 0] @ S.real - q[..., 1] @ S.imag + D * v
        y = y * nn.functional.silu(z)
        return S, (y if down is None else down * y).sum(0)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))


def _written(k: Tensor, v: Tensor) -> Tensor:
    """The sum of conj(k) v^T over pairs [R, ...]."""
    return torch.complex(k[..., 0].T @ v, -(k[..., 1].T @ v))
