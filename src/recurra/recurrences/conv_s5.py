"""ConvS5: S5 whose inputs and states are frames, and whose maps are convolutions."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError
from recurra.problem import Lane, StepInput
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.discretisation import discretise, log_steps, zoh
from recurra.recurrences.hippo import in_pairs, legs_modes


class ConvS5(Recurrence):
    """h_t = exp(dt A) h_{t-1} + (exp(dt A) - 1) / A (B * x_t),  y_t = 2 Re(C * h_t) + D * x_t.

    x_t and y_t are frames [D / (F G), F, G], F = `height`, G = `breadth`, flattened to D numbers; h_t is one of P/2
    complex channels, P = `state_size`. B, C and D are convolutions within a frame, of `kernel` by `kernel` taps, its
    border zero. Lane: one channel of one place in the frame; A and dt are those of its channel.
    Initialisation: A the modes of the normal part of HiPPO-LegS; dt log-uniform from `dt_min` to `dt_max`; B, C and D
    normal, of variance 1 over the numbers that each of their results is made of.

    `elapsed` multiplies dt.

    Source: Convolutional State Space Models for Long-Range Spatiotemporal Modeling, Smith, De Mello, Kautz, Linderman,
    Byeon, 2023, arXiv:2310.19694. Departure: B and C do not start in the eigenvectors of HiPPO.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "Convolutional State Space Models for Long-Range Spatiotemporal Modeling", "Smith et al.", 2023, "2310.19694"
    )

    def __init__(
        self, width: int, state_size: int = 64, height: int = 1, breadth: int = 1, kernel: int = 3,
        dt_min: float = 0.001, dt_max: float = 0.1,
    ):  # fmt: skip
        super().__init__(width)
        self.frame = (options.count("height", height), options.count("breadth", breadth))
        if width % (height * breadth):
            raise InputError(f"height, breadth are {height}, {breadth}; expected that their product divides {width}")
        if options.count("kernel", kernel) % 2 == 0:
            raise InputError(f"kernel is {kernel}; expected an odd number, of which one tap is in the middle")
        half, channels, real = in_pairs(state_size) // 2, width // (height * breadth), torch.get_default_dtype()
        modes, _ = legs_modes(state_size)
        self.dt_log = nn.Parameter(log_steps(half, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.log(-modes.real).to(real))
        self.A_imag = nn.Parameter(modes.imag.to(real))
        # Complex filters are kept as real ones: Re, then Im, of what comes out of B, and of what goes into C.
        self.B, self.C, self.D = (
            nn.Parameter(torch.randn(out, into, kernel, kernel) / math.sqrt(into * kernel**2))
            for out, into in ((2 * half, channels), (channels, 2 * half), (channels, channels))
        )

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(len(self.dt_log) * math.prod(self.frame), dtype=torch.complex64)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        real, imag = self.within(x, self.B).chunk(2, -1)
        A, gain = discretise(zoh, self.A_log, self.A_imag, self.dt_log, elapsed)
        A, gain = (replace(e, tensor=e.tensor.repeat_interleave(math.prod(self.frame), -1)) for e in (A, gain))
        return {"real": real, "imag": imag, "A": A, "gain": gain}

    def step(self, h: Tensor, real: Tensor, imag: Tensor, A: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        h = A * h + gain * torch.complex(real, imag)
        return h, torch.view_as_real(h)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        real, imag = y.unbind(-1)
        return 2 * self.within(torch.cat([real, -imag], -1), self.C) + self.within(x, self.D)

    def within(self, x: Tensor, weight: Tensor) -> Tensor:
        """A convolution of every frame of x [B, T, channels F G] by itself."""
        frames = x.reshape(-1, weight.shape[1], *self.frame)
        found = nn.functional.conv2d(frames, weight.to(x.dtype), padding=weight.shape[-1] // 2)
        return found.reshape(*x.shape[:2], len(weight) * math.prod(self.frame))
