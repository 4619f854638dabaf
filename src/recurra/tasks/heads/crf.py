"""One class at each step, all steps of a sequence together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recurra import options
from recurra.problem import Lane
from recurra.recurrence import Recurrence
from recurra.tasks.heads.head import NOTHING, Around, Head, one_hot


class Forward(Recurrence):
    """a_t[j] = e_t[j] + logsumexp_i(a_{t-1}[i] + M[i, j]), a_1 = e_1 + s; with `best`, the largest in place of the sum:
    Viterbi's algorithm. Lane: layer. x [B, T, K] are the scores e, y the a."""

    lane = Lane.LAYER

    def __init__(self, between: nn.Parameter, first: nn.Parameter, best: bool = False):
        super().__init__(len(first))
        self.between, self.first, self.best = between, first, best

    def start(self) -> dict[str, Tensor]:
        return {"a": torch.zeros(self.width), "begun": torch.zeros(())}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"e": x}

    def step(self, a: Tensor, begun: Tensor, e: Tensor):
        paths = a[:, None] + self.between
        highest = paths.amax(0)
        into = highest if self.best else highest + torch.log(torch.exp(paths - highest).sum(0))
        a = e + torch.where(begun > 0, into, self.first)
        return (a, torch.ones_like(begun)), a


class CRF(Head):
    """p(y_1 ... y_T) = exp(s[y_1] + sum_t raw_t[y_t] + sum_t M[y_{t-1}, y_t] + f[y_T]) / Z: a conditional random field
    over raw [B, T, classes], target [B, T] int64. The forward algorithm and Viterbi's are recurrences.

    A sequence of which a target is missing (below 0, or no class) is left out of the loss; weights count by the
    sequence's first step.

    Source: Conditional Random Fields, Lafferty, McCallum, Pereira, 2001; over an LSTM: Huang, Xu, Yu, 2015,
    arXiv:1508.01991.
    """

    kind = "category"

    def __init__(self, classes: int):
        super().__init__()
        self.size = options.count("classes", classes)
        self.between = nn.Parameter(torch.empty(classes, classes).uniform_(-0.1, 0.1))
        self.first, self.last = (nn.Parameter(torch.empty(classes).uniform_(-0.1, 0.1)) for _ in range(2))
        # Outside of what is registered: they hold the same parameters.
        self._ways = (Forward(self.between, self.first), Forward(self.between, self.first, best=True))

    def there(self, target: Tensor) -> Tensor:
        return (target >= 0) & (target < self.size)

    @property
    def embedded(self) -> int:
        return self.size

    def embed(self, value: Tensor, around: Around = NOTHING) -> Tensor:  # noqa: ARG002
        return one_hot(value, self.size)

    def surprise(self, raw: Tensor, target: Tensor, around: Around = NOTHING) -> Tensor:
        """[B, T]: at the last step of each sequence that of the whole of it, elsewhere 0."""
        starts, ends = borders(raw, around)
        there, tags = self.there(target), target.clamp(0, self.size - 1)
        partition = self._run(raw, around, best=False)
        scores = raw.gather(-1, tags[..., None])[..., 0] + torch.where(starts, self.first[tags], 0)
        inner = self.between[tags[:, :-1], tags[:, 1:]]
        scores = scores + nn.functional.pad(torch.where(starts[:, 1:], 0, inner), (1, 0))
        scores = torch.where(inside(raw, around), scores, 0)
        whole = _whole(scores, starts) + self.last[tags]
        lacking = _whole((~there).to(raw.dtype), starts) > 0
        each = (partition + self.last).logsumexp(-1) - whole
        return torch.where(ends & ~lacking, each, 0)

    def loss(self, raw: Tensor, target: Tensor, weight: Tensor | None = None, around: Around = NOTHING) -> Tensor:
        """The mean surprise of a step, [], of sequences whose targets are all there; 0 if there is none."""
        starts, ends = borders(raw, around)
        each = self.surprise(raw, target, around)
        counted = inside(raw, around).to(raw.dtype)
        whole = ends & (_whole((~self.there(target)).to(raw.dtype), starts) == 0)
        steps = torch.where(whole, _whole(counted, starts), 0)
        if weight is not None:
            own = _whole(torch.where(starts, weight, 0), starts)
            each, steps = each * own, steps * own
        total = steps.sum()
        return each.sum() / torch.where(total == 0, 1.0, total)

    @torch.no_grad()
    def predict(self, raw: Tensor, around: Around = NOTHING) -> Tensor:
        """[B, T] int64: the likeliest classes of each sequence as a whole, -1 in the padding."""
        if not raw.shape[1]:
            return raw.new_zeros(raw.shape[:2], dtype=torch.int64)
        a = self._run(raw, around, best=True)
        _, ends = borders(raw, around)
        came_from = (a[:, :, :, None] + self.between).argmax(2)  # [B, T, K]: where the best way into each class is from
        at_end, tags = (a + self.last).argmax(-1), []
        tag = at_end[:, -1]
        for t in range(raw.shape[1] - 1, -1, -1):
            tag = torch.where(ends[:, t], at_end[:, t], tag)
            tags.append(tag)
            if t:
                tag = came_from[:, t - 1].gather(1, tag[:, None])[:, 0]
        return torch.where(inside(raw, around), torch.stack(tags[::-1], 1), -1)

    def _run(self, raw: Tensor, around: Around, best: bool) -> Tensor:
        way = self._ways[best]
        way.between, way.first = self.between, self.first
        return way(raw, resets=around.resets, lengths=around.lengths)[0]


def inside(raw: Tensor, around: Around) -> Tensor:
    """[B, T] bool: steps before the padding."""
    steps = torch.arange(raw.shape[1], device=raw.device).expand(raw.shape[:2])
    return torch.ones_like(steps, dtype=torch.bool) if around.lengths is None else steps < around.lengths[:, None]


def borders(raw: Tensor, around: Around) -> tuple[Tensor, Tensor]:
    """Where sequences begin and where they end, [B, T] bool."""
    valid = inside(raw, around)
    starts = torch.zeros_like(valid) if around.resets is None else around.resets.clone()
    starts[:, :1] = True
    goes_on = nn.functional.pad(valid[:, 1:] & ~starts[:, 1:], (0, 1))[:, : valid.shape[1]]
    return starts & valid, valid & ~goes_on


def _whole(values: Tensor, starts: Tensor) -> Tensor:
    """[B, T]: at each step the sum of values [B, T] over the sequence it is of."""
    number = starts.long().cumsum(1)
    sums = values.new_zeros(len(values), values.shape[1] + 1).scatter_add(1, number, values)
    return sums.gather(1, number)
