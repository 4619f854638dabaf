"""SpaceTime: state spaces in companion form, whose states are windows of the series that feed on themselves."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class SpaceTime(Recurrence):
    """h_t = S h_{t-1} + a (last of h_{t-1}) + b u_t,  v_t = c . h_t,  S moves each number one place on.

    Lane: a channel, h, a, b, c: [N], N = `order`; a is divided by its 1-norm, so that nothing grows. u is a linear map
    of x, and the result one of gelu(v) + d u.

    Source: Effectively Modeling Time Series with Simple Discrete State Spaces, Zhang, Saab, Poli, Dao, Goel, Ré, 2023,
    arXiv:2303.09489. Its closed loop is streaming: `advance` with what came out.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "Effectively Modeling Time Series with Simple Discrete State Spaces", "Zhang et al.", 2023, "2303.09489"
    )

    def __init__(self, width: int, order: int = 16):
        super().__init__(width)
        N = options.count("order", order)
        self.a, self.b, self.c = (nn.Parameter(torch.randn(width, N) * N**-0.5) for _ in range(3))
        self.d = nn.Parameter(torch.randn(width))
        self.to_channels, self.to_output = Linear(width, width), Linear(width, width)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.a.shape)}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        a = self.a / self.a.abs().sum(1, keepdim=True)
        weights = {"a": a, "b": self.b, "c": self.c, "d": self.d}
        return {"u": self.to_channels(x)} | {name: constant(weight) for name, weight in weights.items()}

    def step(self, h: Tensor, u: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.cat([torch.zeros_like(h[:1]), h[:-1]]) + a * h[-1] + b * u
        return h, torch.stack([(c * h).sum(), d * u])

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        v, direct = y.unbind(-1)
        return self.to_output(nn.functional.gelu(v) + direct)
