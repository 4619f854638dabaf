"""Liquid time-constant networks: neurons whose synapses open and close, and with them how fast they are."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from recurra import options
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.discretisation import lengthened

RANGES = {"capacity": (0.4, 0.6), "leak": (0.001, 1), "rest": (-0.2, 0.2)}
SYNAPSES = {"strength": (0.001, 1), "middle": (0.3, 0.8), "slope": (3, 8)}
POSITIVE = ("capacity", "leak", "strength")


class LTC(Recurrence):
    """c dv/dt = g (e - v) + sum over j of a_j (E_j - v),  a_j = w_j sigmoid(s_j (u_j - m_j)),  y_t = v_t
    by `unfolds` steps of size dt, in which a and what pulls v are taken from before, v itself from after the step:
    v <- (c v / dt + g e + sum of a_j E_j) / (c / dt + g + sum of a_j),  dt = `elapsed` / `unfolds`.

    Lane: the layer, v, capacities c, leaks g and rests e: [H]. Synapses are strengths w, middles m, slopes s and signs
    E: `from_x` [4, D, H] with u = x_t, and `from_v` [4, H, H] with u = v. c, g and w are positive, kept as inverses of
    softplus. Initialisation: uniform, c in [0.4, 0.6], g and w in [0, 1], e in [-0.2, 0.2], m in [0.3, 0.8], s in
    [3, 8]; E 1 or -1 at random.

    Source: Liquid Time-constant Networks, Hasani, Lechner, Amini, Rus, Grosu, 2020, arXiv:2006.04439, fully connected.
    """

    lane = Lane.LAYER
    paper = Paper("Liquid Time-constant Networks", "Hasani, Lechner, Amini, Rus, Grosu", 2020, "2006.04439")

    def __init__(self, width: int, hidden: int | None = None, unfolds: int = 6):
        super().__init__(width)
        H = self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.unfolds = options.count("unfolds", unfolds)
        self.from_x, self.from_v = (nn.Parameter(drawn(SYNAPSES, rows, H)) for rows in (width, H))
        self.neurons = nn.Parameter(drawn(RANGES, H))

    def start(self) -> dict[str, Tensor]:
        return {"v": torch.zeros(self.hidden)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        capacity, leak, rest = self.neurons
        own = {"c": softplus(capacity), "g": softplus(leak), "e": rest}
        own |= {"from_x": synapses(self.from_x), "from_v": synapses(self.from_v)}
        return {"x": x} | {name: constant(value) for name, value in own.items()} | lengthened(x, elapsed)

    def step(
        self, v: Tensor, x: Tensor, c: Tensor, g: Tensor, e: Tensor, from_x: Tensor, from_v: Tensor,
        elapsed: Tensor | float = 1.0,
    ):  # fmt: skip
        c = c * (self.unfolds / elapsed)
        open_x, pull_x = through(x, *from_x)
        for _ in range(self.unfolds):
            opened, pull = through(v, *from_v)
            v = (c * v + g * e + pull + pull_x) / (c + g + opened + open_x)
        return v, v


def through(u: Tensor, strength: Tensor, middle: Tensor, slope: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over all synapses from u [J] to each of H neurons, of how far they are open and of what they pull."""
    opened = strength * torch.sigmoid(slope * (u[:, None] - middle))
    return opened.sum(0), (opened * sign).sum(0)


def synapses(kept: Tensor) -> Tensor:
    """[4, J, H], the strengths positive."""
    return torch.cat([softplus(kept[:1]), kept[1:]])


def drawn(ranges: dict[str, tuple[float, float]], *size: int) -> Tensor:
    """Parameters [..., *size], each uniform in its range; below those of synapses their signs."""
    parts = []
    for name, (low, high) in ranges.items():
        value = torch.empty(size).uniform_(low, high)
        parts.append(value + torch.log(-torch.expm1(-value)) if name in POSITIVE else value)
    if ranges is SYNAPSES:
        parts.append(torch.randint(2, size) * 2.0 - 1)
    return torch.stack(parts)
