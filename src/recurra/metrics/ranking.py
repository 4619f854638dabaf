"""How high what came stood in the ranking of all that could have come."""

from __future__ import annotations

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError


def ranks(scores: Tensor, actual: Tensor) -> Tensor:
    """[n] int64, from 0: how many of scores [n, items] are above that of item actual [n]. Items that tie with it count
    as above, so that a model which says the same of all does not win. An item of score -inf is out of the running."""
    if scores.dim() != 2 or actual.shape != scores.shape[:1]:
        raise InputError(f"scores are {list(scores.shape)}, actual {list(actual.shape)}; expected [n, items] and [n]")
    own = scores.gather(1, actual.unsqueeze(1))
    running = scores != -torch.inf
    return ((scores >= own) & running).sum(1) - (own.squeeze(1) != -torch.inf).long()


def hit_rate(places: Tensor, k: int) -> float:
    """HR@k: the share of `ranks` below k."""
    options.count("k", k)
    return float((places < k).double().mean())


def ndcg(places: Tensor, k: int) -> float:
    """NDCG@k of one right item each: 1 / log2(rank + 2) where the rank is below k, else 0; the mean."""
    options.count("k", k)
    return float((1 / (places.double() + 2).log2()).where(places < k, 0.0).mean())


def auc(actual: Tensor, scores: Tensor) -> float:
    """The chance that a yes scores higher than a no, ties counted half: the area under the ROC curve. NaN if either is
    missing; actual and scores are [n]."""
    if actual.shape != scores.shape:
        raise InputError(f"scores are {list(scores.shape)}; expected {list(actual.shape)}, as actual is")
    yes, levels = actual.bool(), scores.unique(return_inverse=True)[1]
    places = torch.bincount(levels).double()
    middle = places.cumsum(0) - (places - 1) / 2  # the mean rank of those that tie, from 1
    count = int(yes.sum())
    above = float(middle[levels[yes]].sum()) - count * (count + 1) / 2
    rest = count * (len(yes) - count)
    return above / rest if rest else float("nan")
