"""Griffin's recurrent block: a short convolution and an RG-LRU beside a gate."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant, shared
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.rg_lru import admitted, first_decay, log_decay
from recurra.windows import Past


class Griffin(Recurrence):
    """h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t),  log a_t = -8 softplus(Lambda) r_t
    r_t = sigmoid(W_a u_t + b_a),  i_t = sigmoid(W_i u_t + b_i),  u_t = conv(W_x x + b_x)_t.

    Lane: a channel of E = `hidden`, D by default; h is a number. W_a and W_i are block-diagonal with `heads` blocks. In
    the first time step of a sequence 1 stands for the root. The result is W_o (gelu(W_y x + b_y) * h) + b_o, gelu in
    its form with tanh.
    Initialisation: as `rg-lru`.

    Source: Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language Models, De, Smith,
    Fernando, Botev et al., 2024, arXiv:2402.19427. The first time step, and the sign of Lambda, are from its published
    code and checkpoints.
    """

    lane = Lane.CHANNEL
    paper = Paper("Griffin: Mixing Gated Linear Recurrences with Local Attention", "De et al.", 2024, "2402.19427")

    def __init__(self, width: int, hidden: int | None = None, heads: int = 1, kernel: int = 4):
        super().__init__(width)
        hidden = self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.heads = options.divisor("heads", heads, hidden, "hidden width")
        self.windows = {"conv": (hidden, options.count("kernel", kernel) - 1), "started": (1, 1)}
        self.to_signal = Linear(width, hidden)
        self.to_gate = Linear(width, hidden)
        self.conv_weight = nn.Parameter(torch.empty(hidden, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.conv_bias = nn.Parameter(torch.zeros(hidden))
        block = hidden // heads
        self.gate_weight = nn.Parameter(torch.randn(2, heads, block, block) * block**-0.5)  # a, then i
        self.gate_bias = nn.Parameter(torch.zeros(2, hidden))
        self.Lambda = nn.Parameter(first_decay(hidden))
        self.to_output = Linear(hidden, width)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.hidden)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        u = past.convolve("conv", self.to_signal(x), self.conv_weight, self.conv_bias)
        blocks = u.unflatten(-1, (self.heads, -1))
        gates = torch.einsum("bthi,ghij->gbthj", blocks, self.gate_weight.to(u.dtype)).flatten(3)
        gates = gates + self.gate_bias[:, None, None]
        started = past.lags("started", torch.ones_like(x[..., :1]))[1]
        return {
            "u": u,
            "r": gates[0],
            "i": gates[1],
            "started": shared(started.squeeze(-1)),
            "Lambda": constant(self.Lambda),
        }

    def step(
        self, h: Tensor, u: Tensor, r: Tensor, i: Tensor, started: Tensor, Lambda: Tensor
    ) -> tuple[Tensor, Tensor]:
        log_a = log_decay(Lambda, r)
        root = torch.where(started > 0, admitted(log_a), 1)
        h = torch.exp(log_a) * h + root * torch.sigmoid(i) * u
        return h, h

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        return self.to_output(nn.functional.gelu(self.to_gate(x), approximate="tanh") * y)
