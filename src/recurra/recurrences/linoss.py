"""LinOSS: forced harmonic oscillators, discretised so that they are stable whatever their frequency."""

from functools import partial

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class LinOSS(Recurrence):
    """y'' = -a y + B x, as y' = z, z' = -a y + B x, by steps of size dt; the result is C y_t + d x_t.
    imex: z_t = z_{t-1} + dt (B x_t - a y_{t-1}),  y_t = y_{t-1} + dt z_t: keeps its energy;
    im:   z_t = z_{t-1} + dt (B x_t - a y_t),      y_t = y_{t-1} + dt z_t: loses some at every step.

    Lane: an oscillator, y and z are numbers; N = `state_size` of them. B: [N, D], C: [D, N], d: [D]; a = relu(A),
    dt = sigmoid(`log_step`): [N]; `elapsed` multiplies it. Initialisation: A and sigmoid(`log_step`) uniform in [0, 1].

    Source: Oscillatory State-Space Models, Rusch, Rus, 2024, arXiv:2410.03943. The paper's blocks put GLU after it.
    """

    lane = Lane.CHANNEL
    paper = Paper("Oscillatory State-Space Models", "Rusch, Rus", 2024, "2410.03943")

    def __init__(self, width: int, state_size: int | None = None, scheme: str = "im"):
        super().__init__(width)
        N = self.state_size = width if state_size is None else options.count("state_size", state_size)
        self.scheme = options.choice("scheme", scheme, ("im", "imex"))
        self.A = nn.Parameter(torch.rand(N))
        self.log_step = nn.Parameter(torch.logit(torch.rand(N), 1e-3))
        self.to_force, self.to_output = Linear(width, N, bias=False), Linear(N, width, bias=False)
        self.D = nn.Parameter(torch.randn(width))

    def start(self) -> dict[str, Tensor]:
        return {"y": torch.zeros(self.state_size), "z": torch.zeros(self.state_size)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        dt, a = torch.sigmoid(self.log_step), torch.relu(self.A)
        dt = dt if elapsed is None else elapsed.to(x.dtype)[..., None] * dt
        # Solved for z_t, the implicit scheme is the other one with what is added to z divided.
        share = 1 / (1 + dt * dt * a) if self.scheme == "im" else torch.ones_like(dt)
        timed = partial(StepInput, per_time=elapsed is not None)
        return {"force": self.to_force(x), "dt": timed(dt), "a": constant(a), "share": timed(share)}

    def step(self, y: Tensor, z: Tensor, force: Tensor, dt: Tensor, a: Tensor, share: Tensor):
        z = share * (z + dt * (force - a * y))
        y = y + dt * z
        return (y, z), y

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        return self.to_output(y) + (self.D * x).to(x.dtype)
