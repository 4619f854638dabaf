"""The Legendre memory unit: a sliding window of a signal, kept as coefficients of Legendre polynomials."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, shared
from recurra.recurrence import Paper, Recurrence


class LMU(Recurrence):
    """theta dm/dt = A m + B u by zero-order hold: m_t = exp(A/theta) m_{t-1} + A^-1 (exp(A/theta) - I) B u_t
    A[i, j] = (2i+1) (-1 if i < j else (-1)^(i-j+1)),  B[i] = (2i+1) (-1)^i
    u_t = W_u x_t + b_u,  y_t = tanh(W_m m_t + W_x x_t + b).

    Lane: one encoded signal, of `signals` (by default D), with its memory m: [N], N = `memory`; A and B are not
    learned. u(t - r theta) is about sum_i P_i(2r-1) m_i(t) for r in [0, 1], P_i the Legendre polynomials. W_m reads the
    first coefficients of all signals, then the second ones, and so on.

    Source: Legendre Memory Units: Continuous-Time Representation in Recurrent Neural Networks, Voelker, Kajić,
    Eliasmith, NeurIPS 2019. As in Parallelizing Legendre Memory Unit Training, Chilkuri, Eliasmith, 2021,
    arXiv:2102.11417, u and y do not see the state before; u without nonlinearity and y with tanh are as in 2019.
    `elapsed` divides theta: that takes an exponential for each time step.
    The matrix is kept as its difference from I, which alone has digits to spare in short types when theta is long.
    """

    lane = Lane.CHANNEL
    paper = Paper("Parallelizing Legendre Memory Unit Training", "Chilkuri, Eliasmith", 2021, "2102.11417")
    change: Tensor
    B: Tensor

    def __init__(self, width: int, memory: int = 16, theta: float = 100.0, signals: int | None = None):
        super().__init__(width)
        options.count("memory", memory)
        self.theta = options.number("theta", theta, 0)
        if not theta:
            raise InputError(f"theta is {theta!r}; expected a positive number of time steps")
        self.signals = width if signals is None else options.count("signals", signals)
        A, B = legendre_window(memory, theta)
        self.register_buffer("change", (A - torch.eye(memory)).to(torch.get_default_dtype()))
        self.register_buffer("B", B.to(torch.get_default_dtype()))
        self.to_signal = Linear(width, self.signals)
        self.to_output = Linear(width + self.signals * memory, width)

    def start(self) -> dict[str, Tensor]:
        return {"m": torch.zeros(self.signals, len(self.B))}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        u = self.to_signal(x)
        if elapsed is None:
            return {"u": u}
        A, B = legendre_window(len(self.B), self.theta, elapsed)
        return {"u": u, "change": shared((A - torch.eye(len(self.B)).to(A)).to(u.dtype)), "B": shared(B.to(u.dtype))}

    def step(self, m: Tensor, u: Tensor, change: Tensor | None = None, B: Tensor | None = None):
        m = m + ((self.change if change is None else change) @ m + (self.B if B is None else B) * u)
        return m, m

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.to_output(torch.cat([x, y.mT.flatten(2)], -1)))


def legendre_window(size: int, theta: float, elapsed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """exp(A/theta) [..., N, N] and A^-1 (exp(A/theta) - I) B [..., N], in float64; `elapsed` [...] divides theta."""
    i = torch.arange(size, dtype=torch.float64)
    distance = i[:, None] - i
    A = (2 * i[:, None] + 1) * torch.where(distance < 0, -1.0, (-1.0) ** (distance + 1))
    B = (2 * i + 1) * (-1.0) ** i
    # Both at once: the exponential of [[A, B], [0, 0]] holds them in its upper rows.
    rate = nn.functional.pad(torch.cat([A, B[:, None]], 1), (0, 0, 0, 1)) / theta
    both = torch.matrix_exp(rate if elapsed is None else elapsed.double()[..., None, None] * rate.to(elapsed.device))
    return both[..., :size, :size], both[..., :size, size]
