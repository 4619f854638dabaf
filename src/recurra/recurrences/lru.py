"""The linear recurrent unit: a complex diagonal recurrence with constant coefficients."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import linear
from recurra.problem import Lane, StepInput, compute_dtype
from recurra.recurrence import Paper, Recurrence


class LRU(Recurrence):
    """h_t = lambda h_{t-1} + gamma B x_t,  y_t = Re(C h_t) + D x_t,  lambda = exp(-exp(nu) + i exp(theta)).

    Lane: a channel of the state, h is one complex number; N = `state_size` of them. B: [N, D] and C: [D, N] complex,
    D: [D]. Initialisation: |lambda| uniform by area on the ring from `r_min` to `r_max`, its phase uniform up to
    `max_phase`; gamma = sqrt(1 - |lambda|^2), learned through its logarithm.

    After a time `elapsed` between two steps, lambda is raised to that power.

    Source: Resurrecting Recurrent Neural Networks for Long Sequences, Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu,
    De, 2023, arXiv:2303.06349.
    """

    lane = Lane.CHANNEL
    paper = Paper("Resurrecting Recurrent Neural Networks for Long Sequences", "Orvieto et al.", 2023, "2303.06349")

    def __init__(
        self,
        width: int,
        state_size: int | None = None,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 6.28,
    ):
        super().__init__(width)
        r_max = options.number("r_max", r_max, 0, 1)
        r_min = options.number("r_min", r_min, 0, r_max)
        max_phase = options.number("max_phase", max_phase, 1e-6)
        n = self.state_size = width if state_size is None else options.count("state_size", state_size)
        radius = torch.sqrt(torch.rand(n) * (r_max**2 - r_min**2) + r_min**2)
        self.nu_log = nn.Parameter(torch.log(-torch.log(radius)))
        self.theta_log = nn.Parameter(torch.log(max_phase * (1 - torch.rand(n))))
        self.gamma_log = nn.Parameter(torch.log(torch.sqrt(1 - radius**2)))
        # Complex matrices are kept as real ones, so that the layer has one dtype: rows (or columns) Re, then Im.
        self.B = nn.Parameter(torch.randn(2 * n, width) / math.sqrt(2 * width))
        self.C = nn.Parameter(torch.randn(width, 2 * n) / math.sqrt(n))
        self.D = nn.Parameter(torch.randn(width))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.state_size, dtype=torch.complex64)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        gamma = torch.exp(self.gamma_log).repeat(2)
        real, imag = linear(x, (self.B * gamma[:, None]).to(x.dtype)).chunk(2, -1)
        # An angle is multiplied by the number of time steps, and so is its rounding.
        nu, theta = (weight.to(compute_dtype(x.dtype)) for weight in (self.nu_log, self.theta_log))
        rate, angle = torch.exp(nu), torch.exp(theta)
        if elapsed is not None:
            rate, angle = (elapsed[..., None] * part for part in (rate, angle))
        size, decay = torch.exp(-rate), partial(StepInput, per_time=elapsed is not None)
        return {
            "real": real,
            "imag": imag,
            "decay_real": decay(size * torch.cos(angle)),
            "decay_imag": decay(size * torch.sin(angle)),
        }

    def step(self, h: Tensor, real: Tensor, imag: Tensor, decay_real: Tensor, decay_imag: Tensor):
        h = torch.complex(decay_real, decay_imag) * h + torch.complex(real, imag)
        return h, torch.view_as_real(h)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        real, imag = y.unbind(-1)
        C, D = self.C.to(x.dtype), self.D.to(x.dtype)
        return linear(torch.cat([real, -imag], -1), C) + D * x
