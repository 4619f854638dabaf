"""S5: one diagonal state space with many inputs and outputs."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError
from recurra.nn.linear import Linear, linear
from recurra.problem import Lane, StepInput, compute_dtype
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.discretisation import discretise, log_steps, zoh
from recurra.recurrences.hippo import legs_modes


class S5(Recurrence):
    """h_t = exp(dt A) h_{t-1} + (exp(dt A) - 1) / A  (B x_t),  y_t = 2 Re(C h_t) + D x_t.
    The result is g * sigmoid(W g) with g = gelu(y).

    Lane: a channel of the state, h is one complex number with its own A and dt; P/2 of them, one of each pair of
    conjugates of a real system with P = `state_size`. B: [P/2, D] and C: [D, P/2] complex, D: [D].
    Initialisation: a real system whose matrix has the normal part of HiPPO-LegS of size P/J as each of J = `blocks`
    blocks on its diagonal, with B and C normal of variance 1/D and 1/P, written in the basis V of eigenvectors:
    B <- V^-1 B, C <- C V. dt log-uniform from `dt_min` to `dt_max`; the skip D standard normal.
    A = -exp(a) + i b stays in the left half-plane, which the paper does not enforce.

    `elapsed` multiplies dt.

    Source: Simplified State Space Layers for Sequence Modeling, Smith, Warrington, Linderman, 2022, arXiv:2208.04933.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "Simplified State Space Layers for Sequence Modeling", "Smith, Warrington, Linderman", 2022, "2208.04933"
    )

    def __init__(self, width: int, state_size: int = 64, blocks: int = 1, dt_min: float = 0.001, dt_max: float = 0.1):
        super().__init__(width)
        options.count("blocks", blocks)
        if not isinstance(state_size, int) or state_size < 1 or state_size % (2 * blocks):
            raise InputError(f"state_size is {state_size!r}; expected a multiple of {2 * blocks}, twice the blocks")
        modes, vectors = legs_modes(state_size // blocks)
        real = torch.get_default_dtype()
        basis = torch.block_diag(*[vectors] * blocks).to(compute_dtype(real).to_complex())
        self.dt_log = nn.Parameter(log_steps(state_size // 2, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.log(-modes.real).to(real).repeat(blocks))
        self.A_imag = nn.Parameter(modes.imag.to(real).repeat(blocks))
        B = basis.mH @ (torch.randn(state_size, width) / math.sqrt(width)).to(basis.dtype)
        C = (torch.randn(width, state_size) / math.sqrt(state_size)).to(basis.dtype) @ basis
        # Complex matrices are kept as real ones, so that the layer has one dtype: rows (or columns) Re, then Im.
        self.B = nn.Parameter(torch.cat([B.real, B.imag]).to(real))
        self.C = nn.Parameter(torch.cat([C.real, C.imag], 1).to(real))
        self.D = nn.Parameter(torch.randn(width))
        self.to_gate = Linear(width, width)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(len(self.dt_log), dtype=torch.complex64)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        real, imag = linear(x, self.B.to(x.dtype)).chunk(2, -1)
        A, gain = discretise(zoh, self.A_log, self.A_imag, self.dt_log, elapsed)
        return {"real": real, "imag": imag, "A": A, "gain": gain}

    def step(self, h: Tensor, real: Tensor, imag: Tensor, A: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        h = A * h + gain * torch.complex(real, imag)
        return h, torch.view_as_real(h)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        real, imag = y.unbind(-1)
        C, D = self.C.to(x.dtype), self.D.to(x.dtype)
        y = 2 * linear(torch.cat([real, -imag], -1), C) + D * x
        g = nn.functional.gelu(y)
        return g * torch.sigmoid(self.to_gate(g))
