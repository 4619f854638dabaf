"""DSS: diagonal state spaces, all channels with the same modes."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.discretisation import as_complex, discretise, log_steps, zoh
from recurra.recurrences.hippo import legs_modes


class DSS(Recurrence):
    """h_t = exp(dt A) h_{t-1} + (exp(dt A) - 1) / A x_t,  y_t = Re(w . h_t) + D x_t.  The result is W_o gelu(y).

    Lane: a channel with h, w: [N] complex and its own dt; A = -exp(a) + i b: [N] is the same for all channels. This is
    the recurrence of the paper's DSS_EXP; its kernel is K_t = Re(sum_n w_n (exp(dt A_n) - 1) / A_n exp(t dt A_n)).
    It differs from S4D in that modes are shared, B = 1, and N modes are kept without thinking of them as halves of
    pairs.
    Initialisation: A the eigenvalues of positive imaginary part of the normal part of the 2N x 2N HiPPO-LegS matrix
    (Skew-HiPPO); Re w, Im w and D standard normal; dt log-uniform from `dt_min` to `dt_max`.

    `elapsed` multiplies dt.

    Source: Diagonal State Spaces are as Effective as Structured State Spaces, Gupta, Gu, Berant, 2022,
    arXiv:2203.14343. DSS_SOFTMAX, whose kernel is normalised over a length known beforehand, is not here.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "Diagonal State Spaces are as Effective as Structured State Spaces", "Gupta, Gu, Berant", 2022, "2203.14343"
    )

    def __init__(self, width: int, state_size: int = 64, dt_min: float = 0.001, dt_max: float = 0.1):
        super().__init__(width)
        self.state_size = options.count("state_size", state_size)
        modes, _ = legs_modes(2 * state_size)
        self.dt_log = nn.Parameter(log_steps(width, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.log(-modes.real).to(torch.get_default_dtype()))
        self.A_imag = nn.Parameter(modes.imag.to(torch.get_default_dtype()))
        self.w = nn.Parameter(torch.randn(width, state_size, 2))
        self.D = nn.Parameter(torch.randn(width))
        self.to_output = Linear(width, width)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width, self.state_size, dtype=torch.complex64)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        A, B = discretise(zoh, self.A_log, self.A_imag, self.dt_log[:, None], elapsed)
        return {
            "u": x,
            "A": A,
            "B": B,
            "w": constant(as_complex(self.w)),
            "D": constant(self.D),
        }

    def step(self, h: Tensor, u: Tensor, A: Tensor, B: Tensor, w: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
        h = A * h + B * u
        return h, (w * h).real.sum() + D * u

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(nn.functional.gelu(y))
