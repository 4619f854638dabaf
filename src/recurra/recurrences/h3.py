"""H3: two state spaces and two products between three maps of x, as linear attention has them."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.discretisation import as_complex, discretise, log_steps, zoh
from recurra.recurrences.hippo import initial_modes
from recurra.windows import Past


class H3(Recurrence):
    """q, k, v = W x_t + b,  u = (shift k) v,  h_t = exp(dt A) h_{t-1} + (exp(dt A) - 1) / A B u
    y_t = q (2 Re(C . h_t) + d u). The result is W_o y + b_o.

    The shift state space, which moves its state on by one place, is a causal convolution of k of `kernel` taps; the
    diagonal one is S4D's: lane, parameters and initialisation ("legs") as there, N = `state_size`.

    `elapsed` multiplies dt.

    Source: Hungry Hungry Hippos: Towards Language Modeling with State Space Models, Fu, Dao, Saab, Thomas, Rudra, Ré,
    2022, arXiv:2212.14052, of heads of one channel. The paper's shift has as many taps as the other has states.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "Hungry Hungry Hippos: Towards Language Modeling with State Space Models", "Fu et al.", 2022, "2212.14052"
    )

    def __init__(self, width: int, state_size: int = 64, kernel: int = 4, dt_min: float = 0.001, dt_max: float = 0.1):
        super().__init__(width)
        frequency, B = initial_modes("legs", state_size)
        real, half = torch.get_default_dtype(), state_size // 2
        self.windows = {"shift": (width, options.count("kernel", kernel) - 1)}
        self.to_qkv = Linear(width, 3 * width)
        self.shift = nn.Parameter(torch.randn(width, kernel))
        self.dt_log = nn.Parameter(log_steps(width, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.full((width, half), math.log(0.5)))
        self.A_imag = nn.Parameter(frequency.to(real).repeat(width, 1))
        self.B = nn.Parameter(torch.view_as_real(B).to(real).repeat(width, 1, 1))
        self.C = nn.Parameter(torch.randn(width, half, 2) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(width))
        self.to_output = Linear(width, width)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.A_log.shape, dtype=torch.complex64)}

    def inputs(self, x: Tensor, past: Past, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        q, k, v = self.to_qkv(x).chunk(3, -1)
        A, gain = discretise(zoh, self.A_log, self.A_imag, self.dt_log[:, None], elapsed)
        fixed = {"B": as_complex(self.B), "C": as_complex(self.C), "D": self.D}
        read = {"q": q, "u": past.convolve("shift", k, self.shift) * v, "A": A, "gain": gain}
        return read | {name: constant(part) for name, part in fixed.items()}

    def step(
        self, h: Tensor, q: Tensor, u: Tensor, A: Tensor, gain: Tensor, B: Tensor, C: Tensor, D: Tensor
    ) -> tuple[Tensor, Tensor]:
        h = A * h + gain * (B * u)
        return h, q * (2 * (C * h).real.sum() + D * u)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y)
