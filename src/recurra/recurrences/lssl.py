"""LSSL: one linear state space, run as a recurrence, as a convolution, or at another rate."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, cast, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.discretisation import log_steps
from recurra.recurrences.hippo import basis


class LSSL(Recurrence):
    """h_t = A' h_{t-1} + B' x_t,  y_t = C h_t + D x_t, by the generalised bilinear rule of steps of size dt:
    A' = (I - r dt A)^-1 (I + (1 - r) dt A),  B' = (I - r dt A)^-1 dt B. The result is GLU(W gelu(y)), W: [2D, D].

    Lane: a channel with h, C: [N], D and its own dt; A: [N, N] and B: [N] are the same for all. All but r = `rule` are
    learned. Initialisation: A and B by `basis`, HiPPO's "legs", "legt", "lagt" or "fout"; dt log-uniform from `dt_min`
    to `dt_max`, C and D normal of variance 1 / N and 1.

    `elapsed` multiplies dt: the same layer at another rate. That takes matrices of its own for each time step.

    Source: Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space Layers, Gu, Johnson,
    Goel, Saab, Dao, Rudra, Ré, 2021, arXiv:2110.13985. Departures: A is any matrix, where the paper learns the numbers
    of a structured one; one y per channel.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space Layers",
        "Gu et al.",
        2021,
        "2110.13985",
    )

    def __init__(
        self, width: int, state_size: int = 16, basis: str = "legs", rule: float = 0.5,
        dt_min: float = 0.001, dt_max: float = 0.1,
    ):  # fmt: skip
        super().__init__(width)
        self.rule = options.number("rule", rule, 0, 1)
        A, B = initial(basis, options.count("state_size", state_size))
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.dt_log = nn.Parameter(log_steps(width, dt_min, dt_max))
        self.C = nn.Parameter(torch.randn(width, state_size) * state_size**-0.5)
        self.D = nn.Parameter(torch.randn(width))
        self.to_output = Linear(width, 2 * width)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.C.shape)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, StepInput]:
        dt, A = torch.exp(self.dt_log.double())[:, None, None], self.A.double()
        dt = dt if elapsed is None else elapsed.double()[..., None, None, None] * dt
        eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
        after = torch.cat([eye + (1 - self.rule) * dt * A, dt * self.B.double()[:, None]], -1)
        both = cast(torch.linalg.solve(eye - self.rule * dt * A, after), x.dtype)
        moved = {"A": both[..., :-1], "B": both[..., -1]}
        timed = {name: StepInput(part, per_time=elapsed is not None) for name, part in moved.items()}
        return timed | {"u": StepInput(x), "C": constant(self.C), "D": constant(self.D)}

    def step(self, h: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
        h = A @ h + B * u
        return h, C @ h + D * u

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return nn.functional.glu(self.to_output(nn.functional.gelu(y)))


def initial(name: str, size: int) -> tuple[Tensor, ...]:
    """A basis in the type of new parameters."""
    return tuple(part.to(torch.get_default_dtype()) for part in basis(name, size))
