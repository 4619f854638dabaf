"""S4D: a bank of diagonal state spaces, one per channel."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.discretisation import as_complex, bilinear, discretise, log_steps, zoh
from recurra.recurrences.hippo import initial_modes

DISCRETISATIONS = {"zoh": zoh, "bilinear": bilinear}


class S4D(Recurrence):
    """h_t = A' h_{t-1} + B' x_t,  y_t = 2 Re(C . h_t) + D x_t;  A', B' from A, B by zero-order hold or bilinear
    steps of size dt. The result is GLU(W gelu(y)), W: [2D, D].

    Lane: a channel with h, A, B, C: [N/2] complex, one of each pair of conjugates of a real system with
    N = `state_size`, and its own dt. A = -exp(a) + i b stays in the left half-plane. All of A, B, C, D, dt are learned.
    Initialisation: dt log-uniform from `dt_min` to `dt_max`; Re A = -1/2, C and D standard normal, and by `init`
    "lin":  Im A_n = pi n,  B = 1;
    "inv":  Im A_n = N/pi (N / (2n+1) - 1),  B = 1;
    "legs": A the eigenvalues of the normal part of HiPPO-LegS, B the input vector of HiPPO-LegS, halved, along its
    eigenvectors: a system that tends to HiPPO-LegS as N grows.

    `elapsed` multiplies dt.

    Source: On the Parameterization and Initialization of Diagonal State Space Models, Gu, Gupta, Goel, Ré, 2022,
    arXiv:2206.11893.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "On the Parameterization and Initialization of Diagonal State Space Models",
        "Gu, Gupta, Goel, Ré",
        2022,
        "2206.11893",
    )

    def __init__(
        self,
        width: int,
        state_size: int = 64,
        init: str = "legs",
        discretisation: str = "zoh",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ):
        super().__init__(width)
        self.discretisation = options.choice("discretisation", discretisation, tuple(DISCRETISATIONS))
        frequency, B = initial_modes(init, state_size)
        self.dt_log = nn.Parameter(log_steps(width, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.full((width, state_size // 2), math.log(0.5)))
        self.A_imag = nn.Parameter(frequency.to(torch.get_default_dtype()).repeat(width, 1))
        # Complex parameters are kept as pairs of real ones, so that the layer has one dtype.
        self.B = nn.Parameter(torch.view_as_real(B).to(torch.get_default_dtype()).repeat(width, 1, 1))
        self.C = nn.Parameter(torch.randn(width, state_size // 2, 2) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(width))
        self.to_output = Linear(width, 2 * width)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.A_log.shape, dtype=torch.complex64)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        rule = DISCRETISATIONS[self.discretisation]
        A, gain = discretise(rule, self.A_log, self.A_imag, self.dt_log[:, None], elapsed)
        return {
            "u": x,
            "A": A,
            "B": replace(gain, tensor=gain.tensor * as_complex(self.B)),
            "C": constant(as_complex(self.C)),
            "D": constant(self.D),
        }

    def step(self, h: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
        h = A * h + B * u
        return h, 2 * (C * h).real.sum() + D * u

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return nn.functional.glu(self.to_output(nn.functional.gelu(y)))
