"""HGRN: a gated linear recurrence of complex channels, whose forget gate has a lower bound."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.short_convolution import convolved, taps, window
from recurra.windows import Past


class HGRN(Recurrence):
    """h_t = f_t exp(i theta) h_{t-1} + (1 - f_t) c_t,  f_t = low + (1 - low) sigmoid(W_f x_t + b_f)
    Re c_t, Im c_t = silu(W_c x_t + b_c).

    Lane: a channel, h and c are one complex number; D of them. theta: [D] is learned, low = `lower_bound`. The result
    is W_o norm(g * [Re h, Im h]) + b_o with g = sigmoid(W_g x + b_g): [2 D] and a layer norm over all of it.
    `rotate=False` is the real variant of the published code: theta = 0, h and c are real, g: [D].
    With `negative_eigenvalues` h_{t-1} is multiplied by 2 f_t - 1 in the place of f_t (Grazzi et al., 2024,
    arXiv:2411.12537).
    With a `kernel` W_f x + b_f and W_c x + b_c are convolved over so many time steps, channel by channel, as an option
    of flash-linear-attention has it.
    Initialisation: theta_j = 10000^(-2 j / D).

    Source: Hierarchically Gated Recurrent Neural Network for Sequence Modeling, Qin, Yang, Zhong, 2023,
    arXiv:2311.04823. There low is learned for all layers of a model together, a value per channel, and grows from 0 in
    the first; one layer is given one value.
    """

    lane = Lane.CHANNEL
    paper = Paper("Hierarchically Gated Recurrent Neural Network", "Qin, Yang, Zhong", 2023, "2311.04823")

    def __init__(
        self,
        width: int,
        lower_bound: float = 0.0,
        rotate: bool = True,
        negative_eigenvalues: bool = False,
        kernel: int | None = None,
    ):
        super().__init__(width)
        self.lower_bound = options.number("lower_bound", lower_bound, 0, 1)
        self.rotate = options.flag("rotate", rotate)
        self.most = 2.0 if options.flag("negative_eigenvalues", negative_eigenvalues) else 1.0
        inner = (2 if rotate else 1) * width
        self.to_input = Linear(width, inner)
        self.to_forget = Linear(width, width)
        self.to_gate = Linear(width, inner)
        self.conv_weight = taps(inner + width, kernel)
        self.windows = window(self.conv_weight)
        self.norm = nn.LayerNorm(inner)
        self.to_output = Linear(inner, width)
        if rotate:
            self.theta = nn.Parameter(10000.0 ** (-2 / width * torch.arange(width)))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width, dtype=torch.complex64 if self.rotate else torch.float32)}

    def inputs(self, x: Tensor, past: Past | None = None) -> dict[str, Tensor | StepInput]:
        signals = {"c": self.to_input(x), "forget": self.to_forget(x)}
        c, forget = convolved(past, self.conv_weight, signals, silu=False).values()
        return {
            "c": torch.stack(c.chunk(2, -1), -1) if self.rotate else c,
            "forget": forget,
            "theta": constant(self.theta if self.rotate else x.new_zeros(self.width)),
        }

    def step(self, h: Tensor, c: Tensor, forget: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        # 1 - f by itself: near f = 1 the difference would lose its digits.
        rest = (1 - self.lower_bound) * torch.sigmoid(-forget)
        c = rest * nn.functional.silu(c)
        if not self.rotate:
            h = (1 - self.most * rest) * h + c
            return h, h
        turn = torch.complex(torch.cos(theta), torch.sin(theta))
        h = (1 - self.most * rest) * turn * h + torch.complex(c[0], c[1])
        return h, torch.stack([h.real, h.imag])

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        h = y.transpose(2, 3).flatten(2) if self.rotate else y
        return self.to_output(self.norm(torch.sigmoid(self.to_gate(x)) * h))
