"""The quasi-recurrent network: gates from a short convolution of x, and a recurrence without weights."""

import torch
from torch import Tensor

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence
from recurra.windows import Past


class QRNN(Recurrence):
    """z_t = tanh(.), f_t, o_t, i_t = sigmoid(.) of W (x_{t-k+1}, ..., x_t) + b
    f:   h_t = f h_{t-1} + (1 - f) z
    fo:  c_t = f c_{t-1} + (1 - f) z,  h_t = o c_t
    ifo: c_t = f c_{t-1} + i z,  h_t = o c_t;  y_t = h_t.

    Lane: a channel, c is a scalar. `pooling` is "f", "fo" or "ifo"; k = `kernel`: what a convolution of that width
    sees, in `to_gates`, the newest last.

    Source: Quasi-Recurrent Neural Networks, Bradbury, Merity, Xiong, Socher, 2016, arXiv:1611.01576. Departure:
    there is a bias.
    """

    lane = Lane.CHANNEL
    paper = Paper("Quasi-Recurrent Neural Networks", "Bradbury, Merity, Xiong, Socher", 2016, "1611.01576")

    def __init__(self, width: int, hidden: int | None = None, kernel: int = 2, pooling: str = "fo"):
        super().__init__(width)
        self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.windows = {"past": (width, options.count("kernel", kernel) - 1)}
        self.pooling = options.choice("pooling", pooling, ("f", "fo", "ifo"))
        self.to_gates = Linear(kernel * width, (1 + len(pooling)) * self.hidden)

    def start(self) -> dict[str, Tensor]:
        return {"c": torch.zeros(self.hidden)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor]:
        gates = self.to_gates(torch.cat(past.lags("past", x)[::-1], -1)).chunk(1 + len(self.pooling), -1)
        z, f, *others = torch.tanh(gates[0]), *(torch.sigmoid(gate) for gate in gates[1:])
        return {"z": z, "f": f} | dict(zip("oi", others, strict=False))

    def step(self, c: Tensor, z: Tensor, f: Tensor, **others: Tensor) -> tuple[Tensor, Tensor]:
        c = f * c + others.get("i", 1 - f) * z
        return c, others["o"] * c if "o" in others else c
