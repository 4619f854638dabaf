"""S4: state spaces whose matrix is normal but for a low-rank part, which HiPPO's are."""

import torch
from torch import Tensor, nn

from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, cast, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.discretisation import as_complex, log_steps
from recurra.recurrences.hippo import basis, in_pairs, low_rank, normal_modes


class S4(Recurrence):
    """h_t = (I - dt/2 A)^-1 ((I + dt/2 A) h_{t-1} + dt B x_t),  y_t = 2 Re(C . h_t) + D x_t,  A = diag(a) - P^T P*
    in time linear in N: of v = 2 h_{t-1} + dt B x_t,  h_t = E v - E P^T (2/dt + P* E P^T)^-1 P* E v - h_{t-1}, with
    E = 1 / (1 - dt/2 a), by Woodbury's identity. The result is GLU(W gelu(y)), W: [2D, D].

    Lane: a channel with h, a, B, C: [N/2] complex, one of each pair of conjugates of a real system with N =
    `state_size`, P: [R, N/2], and its own dt; products with P* are over both of each pair. a stays in the left
    half-plane. All of a, B, C, D, P, dt are learned. Initialisation: A and B by `basis`, HiPPO's "legs", "legt", "lagt"
    or "fout"; R is 2 of legt, else 1. dt log-uniform from `dt_min` to `dt_max`; C and D standard normal.

    `elapsed` multiplies dt.

    Source: Efficiently Modeling Long Sequences with Structured State Spaces, Gu, Goel, Ré, 2021, arXiv:2111.00396. Its
    convolution by a Cauchy kernel is engine "convolution" here, which takes the kernel from the step.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "Efficiently Modeling Long Sequences with Structured State Spaces", "Gu, Goel, Ré", 2021, "2111.00396"
    )

    def __init__(
        self, width: int, state_size: int = 64, basis: str = "legs", dt_min: float = 0.001, dt_max: float = 0.1
    ):
        super().__init__(width)
        a, B, P = low_rank_modes(basis, in_pairs(state_size))
        real = torch.get_default_dtype()
        self.dt_log = nn.Parameter(log_steps(width, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.log((-a.real).clamp(min=1e-4)).to(real).repeat(width, 1))
        self.A_imag = nn.Parameter(a.imag.to(real).repeat(width, 1))
        # Complex parameters are kept as pairs of real ones, so that the layer has one dtype.
        self.B = nn.Parameter(torch.view_as_real(B).to(real).repeat(width, 1, 1))
        self.P = nn.Parameter(torch.view_as_real(P).to(real).repeat(width, 1, 1, 1))
        self.C = nn.Parameter(torch.randn(width, state_size // 2, 2) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(width))
        self.to_output = Linear(width, 2 * width)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(*self.A_log.shape, 2)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        P, B = as_complex(self.P).to(torch.complex128), as_complex(self.B).to(torch.complex128)
        dt = torch.exp(self.dt_log.double())[:, None]
        dt = dt if elapsed is None else elapsed.double()[..., None, None] * dt
        E = 1 / (1 - dt / 2 * torch.complex(-torch.exp(self.A_log.double()), self.A_imag.double()))
        EP = E[..., None, :] * P
        # Transposed, so that F has a row for each of the products P* E v that it is weighed by.
        inner = 2 * (EP @ P.mH).real + 2 / dt[..., None] * torch.eye(P.shape[-2]).to(dt)
        F = torch.linalg.solve(inner.to(EP.dtype), EP)
        found = {"E": E, "F": F, "B": dt * B}
        timed = {n: StepInput(cast(part, x.dtype), per_time=elapsed is not None) for n, part in found.items()}
        fixed = {"P": as_complex(self.P).conj().resolve_conj(), "C": as_complex(self.C), "D": self.D}
        return {"u": x} | timed | {name: constant(part) for name, part in fixed.items()}

    def step(self, h: Tensor, u: Tensor, E: Tensor, F: Tensor, B: Tensor, P: Tensor, C: Tensor, D: Tensor):
        before = torch.complex(h[:, 0], h[:, 1])
        v = E * (2 * before + B * u)
        h = v - (2 * (P * v).real.sum(1)[:, None] * F).sum(0) - before
        return torch.view_as_real(h), 2 * (C * h).real.sum() + D * u

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return nn.functional.glu(self.to_output(nn.functional.gelu(y)))


def low_rank_modes(name: str, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """A basis' a and B [N/2], P [R, N/2] in the eigenvectors of its normal part."""
    A, B = basis(name, size)
    P = low_rank(name, size)
    a, vectors = normal_modes(A + P.T @ P)
    return a, vectors.mH @ B.to(vectors.dtype), P.to(vectors.dtype) @ vectors.conj()
