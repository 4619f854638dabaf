"""ATLAS: a network per head that learns at test time from a window of time steps, by Newton-Schulz on its momentum."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import Lane, cast, compute_dtype
from recurra.recurrence import Paper, Recurrence, in_type_of
from recurra.recurrences.delta_net import head_count, unit
from recurra.windows import Past

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Muon's polynomial, which brings singular values between 0 and 1 near 1."""


class Atlas(Recurrence):
    """M_t = alpha_t M_{t-1} - eta_t NS(S_t),  S_t = theta_t S_{t-1} + grad l_t(M_{t-1}),  y_t = f(phi(q_t); M_t)
    l_t(M) = sum over the last c time steps i = t - c + 1 .. t of gamma_i |f(phi(k_i); M) - v_i|^2.

    Lane: a head, q, k: [K], v: [V], V = D/heads, 64 by default, K = `features`, by default 16 or V/2 if that is less;
    alpha, eta, theta, gamma: numbers in (0, 1), sigmoids of affine maps of x. The last c = `window` k, v and gamma are
    part of the state. phi(u) = [a_0, a_1 u, a_2 u u^T]: [1 + K + K^2], all monomials up to the second degree, a is
    learned. M is the weights of f, a network of `depth` linear maps with silu between them, hidden layers `expand` V
    wide; S has the same shapes. NS, of a matrix: five steps X <- a X + b (X X^T) X + c (X X^T)^2 X from S / |S|, which
    bring its singular values near 1, as the optimiser Muon does; without `muon` it is the identity. q, k, v, the gate
    and norm of the result are made as in `Titans`.
    Initialisation: M is learned and starts normal with variance 1 / columns, S and gamma at 0; a starts where phi(q) .
    phi(k) is the expansion of exp(q . k); the biases of alpha, eta, theta and gamma start where the sigmoid gives 0.99,
    0.01, 0.9 and 0.5.

    Source: ATLAS: Learning to Optimally Memorize the Context at Test Time, Behrouz, Li, Kacham, Daliri, Deng, Zhong,
    Razaviyayn, Mirrokni, 2025, arXiv:2505.23735. Departures: the gradient is taken at M_{t-1} in every time step, where
    the paper takes it at the start of a chunk; gamma belongs to its time step, where the paper lets it depend on t and
    i; f has no residual, since phi(k) and v differ in size. The paper leaves open a's start, K and how rates are made.
    """

    lane = Lane.HEAD
    paper = Paper(
        "ATLAS: Learning to Optimally Memorize the Context at Test Time", "Behrouz et al.", 2025, "2505.23735"
    )

    def __init__(
        self, width: int, heads: int | None = None, window: int = 8, features: int | None = None, depth: int = 2,
        expand: int = 1, kernel: int = 4, muon: bool = True,
    ):  # fmt: skip
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 64)
        self.size, self.depth = width // heads, options.count("depth", depth, 65)
        self.keys = min(16, max(1, self.size // 2)) if features is None else options.count("features", features)
        self.window, self.muon = options.count("window", window), options.flag("muon", muon)
        self.parts = [heads * self.keys, heads * self.keys, width]
        self.windows = {"conv": (sum(self.parts), options.count("kernel", kernel) - 1)}
        self.to_qkv = Linear(width, sum(self.parts), bias=False)
        self.conv_weight = nn.Parameter(torch.empty(sum(self.parts), kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.to_rates = Linear(width, 4 * heads)
        with torch.no_grad():
            self.to_rates.bias.copy_(torch.logit(torch.tensor([0.99, 0.01, 0.9, 0.5])).repeat_interleave(heads))
        self.monomials = nn.Parameter(torch.tensor([1.0, 1.0, 0.5**0.5]))
        hidden = [options.count("expand", expand) * self.size] * (depth - 1)
        sizes = [1 + self.keys + self.keys**2, *hidden, self.size]
        self.memory = nn.ParameterList(
            torch.randn(heads, rows, columns) * columns**-0.5 for columns, rows in pairwise(sizes)
        )
        self.norm_weight = nn.Parameter(torch.ones(self.size))
        self.to_gate, self.to_output = (Linear(width, width, bias=False) for _ in range(2))

    def start(self) -> dict[str, Tensor]:
        past = {"k": (self.window, self.keys), "v": (self.window, self.size), "gamma": (self.window,)}
        state = {name: torch.zeros(self.heads, *shape) for name, shape in past.items()}
        state |= {f"M{i + 1}": weight for i, weight in enumerate(self.memory)}
        return state | {f"S{i + 1}": torch.zeros_like(weight) for i, weight in enumerate(self.memory)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor]:
        # Newton-Schulz makes what is small large, by up to 3.4^5: nothing is rounded to half types on the way.
        x = cast(x, compute_dtype(x.dtype))
        qkv = past.convolve("conv", in_type_of(x, self.to_qkv), cast(self.conv_weight, x.dtype), silu=True)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in qkv.split(self.parts, -1))
        rates = in_type_of(x, self.to_rates).chunk(4, -1)
        return {"q": unit(q), "k": unit(k), "v": v} | dict(zip(("alpha", "eta", "theta", "gamma"), rates, strict=True))

    def step(
        self, keys: Tensor, values: Tensor, gammas: Tensor, *state: Tensor, q: Tensor, k: Tensor, v: Tensor,
        alpha: Tensor, eta: Tensor, theta: Tensor, gamma: Tensor,
    ):  # fmt: skip
        def f(u: Tensor, M: tuple[Tensor, ...]) -> Tensor:
            a, (steps, _) = self.monomials, u.shape
            square = (u[:, :, None] * u[:, None, :]).flatten(1)
            x = torch.cat([a[0] * u.new_ones(steps, 1), a[1] * u, a[2] * square], 1)
            for weight in M[:-1]:
                x = x @ weight.T
                x = x * torch.sigmoid(x)
            return x @ M[-1].T

        keys, values = torch.cat([keys, k[None]])[1:], torch.cat([values, v[None]])[1:]
        gammas = torch.cat([gammas, torch.sigmoid(gamma)[None]])[1:]
        M, S = state[: self.depth], state[self.depth :]
        slopes = torch.func.grad(lambda M: (gammas * (f(keys, M) - values).square().sum(1)).sum())(M)
        S = tuple(torch.sigmoid(theta) * s + slope for s, slope in zip(S, slopes, strict=True))
        moves = map(_orthogonal, S) if self.muon else S
        M = tuple(torch.sigmoid(alpha) * m - torch.sigmoid(eta) * move for m, move in zip(M, moves, strict=True))
        return (keys, values, gammas, *M, *S), f(q[None], M)[0]

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        gate = nn.functional.silu(self.to_gate(x))
        return self.to_output(rms_norm(y, self.norm_weight, 1e-5).flatten(2) * gate)


def _orthogonal(S: Tensor) -> Tensor:
    """NS(S); the products are of the smaller side."""
    if S.shape[0] > S.shape[1]:
        return _orthogonal(S.T).T
    a, b, c = NEWTON_SCHULZ
    X = S * torch.rsqrt(S.square().sum() + 1e-12)
    for _ in range(5):
        A = X @ X.T
        X = a * X + (b * A + c * (A @ A)) @ X
    return X
