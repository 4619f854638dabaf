"""The mean of a model's weights over many updates, and when to begin with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError


class Trigger:
    """Whether validation has stopped to get better: a loss is higher than the least of all but the last `patience`.

    Source: the non-monotonic criterion of Regularizing and Optimizing LSTM Language Models, Merity, Keskar, Socher,
    2018, arXiv:1708.02182.
    """

    def __init__(self, patience: int = 5):
        self.patience, self.fired = options.count("patience", patience), False
        self._losses: list[float] = []

    def tell(self, loss: float) -> bool:
        """One validation more; from when it fires on, True."""
        earlier = self._losses[: max(0, len(self._losses) - self.patience)]
        self.fired = self.fired or loss > min(earlier, default=math.inf)
        self._losses.append(loss)
        return self.fired


class Averaged:
    """The running mean of a model's parameters: `update` after each step of training, `applied` to evaluate with it.

    m_n = m_{n-1} + (w_n - m_{n-1}) / n, from the first update on.

    Source: Acceleration of Stochastic Approximation by Averaging, Polyak, Juditsky, 1992, SIAM Journal on Control and
    Optimization 30; begun by a `Trigger` it is the NT-ASGD of Merity et al., with any optimiser.
    """

    def __init__(self, model: nn.Module):
        self.model, self.count = options.instance("model", model, nn.Module), 0
        self._means: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights as they are now."""
        self.count += 1
        now = list(self.model.parameters())
        if self.count == 1:
            self._means = [p.detach().clone() for p in now]
        for mean, p in zip(self._means, now, strict=True):
            mean += (p - mean) / self.count

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[nn.Module]:
        """The model with its mean weights, which then has its own again. Raises InputError if nothing was counted."""
        if not self.count:
            raise InputError("no weights were counted; call update first")
        own = [p.detach().clone() for p in self.model.parameters()]
        self._put(self._means)
        try:
            yield self.model
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for p, value in zip(self.model.parameters(), values, strict=True):
            p.copy_(value)
