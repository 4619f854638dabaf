"""S7: a simplified state space whose decays, inputs and outputs are all made of x."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class S7(Recurrence):
    """h_t = a_t h_{t-1} + B_t u_t + b_t,  a_t = 1 - 1 / (s_t^2 + 1/2),  y_t = C_t h_t + d_t u_t,  u_t = W x_t
    The result is sigmoid(V gelu(y_t)) y_t.

    Lane: a channel of the state, h is a number; N = `state_size` of them. s_t - `base`, b_t: [N], B_t: [N, D],
    C_t: [D, N] and d_t: [D] are linear maps of u_t: `to_change`, `to_reading`. a lies in (-1, 1): nothing grows.
    Initialisation: `base` so that a is uniform in [0.5, 0.99] where u is 0.

    Source: S7: Selective and Simplified State Space Layers for Sequence Modeling, Soydan, Zubić, Messikommer, Mishra,
    Scaramuzza, 2024, arXiv:2410.03464. Departures: the initialisation; the residual connection is the block's.
    """

    lane = Lane.CHANNEL
    paper = Paper("S7: Selective and Simplified State Space Layers", "Soydan et al.", 2024, "2410.03464")

    def __init__(self, width: int, state_size: int = 16):
        super().__init__(width)
        N = self.state_size = options.count("state_size", state_size)
        self.to_inner = Linear(width, width, bias=False)
        self.to_change = Linear(width, (2 + width) * N, bias=False)
        self.to_reading = Linear(width, width * (N + 1), bias=False)
        self.to_gate = Linear(width, width, bias=False)
        self.base = nn.Parameter(torch.sqrt(1 / (1 - torch.empty(N).uniform_(0.5, 0.99)) - 0.5))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.state_size)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        u = self.to_inner(x)
        s, b, B = self.to_change(u).tensor_split([self.state_size, 2 * self.state_size], -1)
        pushed = (B.unflatten(-1, (self.state_size, -1)) @ u[..., None]).squeeze(-1) + b
        return {"s": s + self.base, "pushed": pushed}

    def step(self, h: Tensor, s: Tensor, pushed: Tensor) -> tuple[Tensor, Tensor]:
        h = (1 - 1 / (s * s + 0.5)) * h + pushed
        return h, h

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        u = self.to_inner(x)
        C, d = self.to_reading(u).tensor_split([self.width * self.state_size], -1)
        y = (C.unflatten(-1, (self.width, -1)) @ y[..., None]).squeeze(-1) + d * u
        return torch.sigmoid(self.to_gate(nn.functional.gelu(y))) * y
