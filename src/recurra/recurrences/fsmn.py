"""FSMN: a memory of taps over what a small network has seen, before and a little ahead."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class FSMN(Recurrence):
    """p_t = V relu(W x_t + b)
    y_{t+d} = x_t + p_t + sum over i = 0..I of a_i p_{t - s i} + sum over j = 1..J of c_j p_{t + r j},  d = r J.

    I = `back` taps with stride s = `back_stride`, and J = `ahead` with stride r = `ahead_stride`: what comes out is
    d = `delay` time steps late, and the first d of it know of no x_t. Lane: a channel, whose states are the last values
    of p and of x, the newest first; a: [I + 1, D], c: [J, D]; W: [hidden, D], V: [D, hidden].

    Source: Deep-FSMN for Large Vocabulary Continuous Speech Recognition, Zhang, Lei, Yan, Dai, 2018, arXiv:1803.05030.
    Its connection from one memory to the next is that of x to y: the layers of a stack are a deep one.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "Deep-FSMN for Large Vocabulary Continuous Speech Recognition", "Zhang, Lei, Yan, Dai", 2018, "1803.05030"
    )

    def __init__(
        self, width: int, hidden: int | None = None, back: int = 10, ahead: int = 0, back_stride: int = 1,
        ahead_stride: int = 1,
    ):  # fmt: skip
        super().__init__(width)
        hidden = width if hidden is None else options.count("hidden", hidden)
        back, ahead = options.whole("back", back), options.whole("ahead", ahead)
        self.back_stride = options.count("back_stride", back_stride)
        self.delay = ahead * options.count("ahead_stride", ahead_stride)
        self.span = self.delay + back * back_stride
        self.to_hidden, self.to_memory = Linear(width, hidden), Linear(hidden, width, bias=False)
        bound = (back + ahead + 1) ** -0.5
        self.back = nn.Parameter(torch.empty(back + 1, width).uniform_(-bound, bound))
        self.ahead = nn.Parameter(torch.empty(ahead, width).uniform_(-bound, bound))

    def start(self) -> dict[str, Tensor]:
        return {name: torch.zeros(self.width, max(span, 1)) for name, span in (("m", self.span), ("r", self.delay))}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        p = self.to_memory(torch.relu(self.to_hidden(x)))
        taps = x.new_zeros(max(self.span, 1) + 1, self.width, dtype=self.back.dtype)
        at = torch.arange(len(self.back), device=x.device) * self.back_stride + self.delay
        taps = taps.index_add(0, at, self.back)
        if len(self.ahead):
            at = self.delay - (torch.arange(len(self.ahead), device=x.device) + 1) * (self.delay // len(self.ahead))
            taps = taps.index_add(0, at, self.ahead)
        return {"p": p, "x": x, "taps": constant(taps.mT)}

    def step(self, m: Tensor, r: Tensor, p: Tensor, x: Tensor, taps: Tensor):
        seen, read = torch.cat([p[None], m]), torch.cat([x[None], r])
        y = read[self.delay] + seen[self.delay] + (taps * seen).sum()
        return (seen[:-1], read[:-1]), y
