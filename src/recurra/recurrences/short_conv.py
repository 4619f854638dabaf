"""The gated short convolution of LFM2: a few taps per channel, between two gates that multiply."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class ShortConv(Recurrence):
    """y_t = W_o (C_t * (w_1 u_t + w_2 u_{t-1} + .. + w_k u_{t-k+1} + b)),  u_t = B_t * v_t,  (B, C, v) = W_i x.

    Lane: a channel, whose state h holds its last k - 1 values of u, the newest first, k = `kernel` (of k = 1 the last
    one, which nothing reads); w: [D, k], the oldest first in `conv_weight`. With `bias` there is b, and W_i and W_o
    have one.

    Source: LFM2 Technical Report, Liquid AI, 2025, arXiv:2511.23404.
    """

    lane = Lane.CHANNEL
    paper = Paper("LFM2 Technical Report", "Liquid AI", 2025, "2511.23404")

    def __init__(self, width: int, kernel: int = 3, bias: bool = False):
        super().__init__(width)
        self.kernel = options.count("kernel", kernel)
        bound = kernel**-0.5
        self.to_inner = Linear(width, 3 * width, bias=options.flag("bias", bias))
        self.conv_weight = nn.Parameter(torch.empty(width, kernel).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound)) if bias else None
        self.to_output = Linear(width, width, bias=bias)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width, max(self.kernel - 1, 1))}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        B, C, v = self.to_inner(x).chunk(3, -1)
        bias = torch.zeros_like(self.conv_weight[:, 0]) if self.conv_bias is None else self.conv_bias
        return {"u": B * v, "C": C, "w": constant(self.conv_weight), "b": constant(bias)}

    def step(self, h: Tensor, u: Tensor, C: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat([u[None], h])
        return seen[: len(h)], C * ((w.flip(0) * seen[: self.kernel]).sum() + b)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y)
