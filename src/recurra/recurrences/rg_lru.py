"""The real-gated linear recurrent unit of Griffin."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class RGLRU(Recurrence):
    """h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t),  log a_t = -8 softplus(Lambda) r_t,  y_t = h_t
    r_t = sigmoid(W_a x_t + b_a),  i_t = sigmoid(W_x x_t + b_x).

    Lane: a channel, h is a scalar. W_a and W_x are block-diagonal with `heads` blocks. sqrt(1 - a^2) is computed from
    log a by expm1, which keeps its digits when a is near 1.
    Initialisation: a_t at r = 1 uniform by area in [0.9, 0.999].

    Source: Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language Models, De, Smith,
    Fernando, Botev et al., 2024, arXiv:2402.19427. The paper writes a = sigmoid(Lambda); softplus(Lambda) here is
    -log sigmoid(-Lambda), the sign that its own code and checkpoints use.
    """

    lane = Lane.CHANNEL
    paper = Paper("Griffin: Mixing Gated Linear Recurrences with Local Attention", "De et al.", 2024, "2402.19427")

    def __init__(self, width: int, heads: int = 1):
        super().__init__(width)
        block = width // options.divisor("heads", heads, width, "width")
        self.gate_weight = nn.Parameter(torch.randn(2, heads, block, block) * block**-0.5)
        self.gate_bias = nn.Parameter(torch.zeros(2, width))
        self.Lambda = nn.Parameter(first_decay(width))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width)}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        blocks = x.unflatten(-1, (self.gate_weight.shape[1], -1))
        gates = torch.einsum("bthi,ghij->gbthj", blocks, self.gate_weight).flatten(3) + self.gate_bias[:, None, None]
        return {"x": x, "gate_a": gates[0], "gate_x": gates[1], "Lambda": constant(self.Lambda)}

    def step(self, h: Tensor, x: Tensor, gate_a: Tensor, gate_x: Tensor, Lambda: Tensor) -> tuple[Tensor, Tensor]:
        log_a = log_decay(Lambda, gate_a)
        h = torch.exp(log_a) * h + admitted(log_a) * (torch.sigmoid(gate_x) * x)
        return h, h


def first_decay(channels: int) -> Tensor:
    """Lambda that makes a uniform by area in [0.9, 0.999] where its gate is open."""
    decay = torch.empty(channels).uniform_(0.9**2, 0.999**2).sqrt()
    return torch.log(torch.expm1(-torch.log(decay) / 8))


def log_decay(Lambda: Tensor, gate: Tensor) -> Tensor:
    """log a, from Lambda and the gate before its sigmoid."""
    return -8 * nn.functional.softplus(Lambda) * torch.sigmoid(gate)


def admitted(log_a: Tensor) -> Tensor:
    """sqrt(1 - a^2)."""
    room = -torch.expm1(2 * log_a)
    # The root's slope is infinite at 0, where a closed gate ends by underflow: nothing may flow back from there.
    return torch.sqrt(torch.clamp(room, min=torch.finfo(room.dtype).tiny))
