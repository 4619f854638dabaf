"""What a date says: the hour, the day of the week, the time of the year, holidays."""

from __future__ import annotations

import math
from datetime import date

import torch
from torch import Tensor, nn

from recurra.errors import InputError, RecurraError, one_line

DAY = 86400.0
YEAR = 365.2425 * DAY
FIRST, LAST = 1900, 2100
"""Years whose holidays are written down."""
BEGINS = date(FIRST, 1, 1).toordinal() - date(1970, 1, 1).toordinal()
"""Days from 1970 to the first of them."""


class Calendar(nn.Module):
    """Times, in seconds since 1970, to numbers: [...] to [..., size]; where the time is NaN, zeros.

    Waves of the day where steps are shorter than a day; which day of the week it is, where they are shorter than a
    week; waves of the year, where they are shorter than half of that; and the holidays of the day before, the day
    itself and the day after, one number for each name.

    Args:
        step: seconds between two time steps.
        named: for each day from the first of 1900 on, [days], the number of its holiday, from 1; 0 is none. Such as
            `holidays_of` gives; it is kept with the model, which then needs no list of them. It is of floating
            point, as all is that kernels may come upon.
    """

    def __init__(self, step: float, named: Tensor | None = None):
        super().__init__()
        self.named: Tensor
        self.register_buffer("named", torch.zeros(0) if named is None else named)
        self.daily = 6 if step < DAY else 0
        self.weekly = step < 7 * DAY
        self.yearly = min(6, int(YEAR / step / 2))
        self.names = int(self.named.amax()) if len(self.named) else 0
        self.size = 2 * self.daily + 7 * self.weekly + 2 * self.yearly + 3 * self.names

    def forward(self, time: Tensor) -> Tensor:
        """[..., size] in PyTorch's default type."""
        there = ~time.isnan()
        time = torch.where(there, time, 0)
        day = (time / DAY).floor()
        parts = [_waves((time / DAY) % 1, self.daily), _waves((time / YEAR) % 1, self.yearly)]
        if self.weekly:
            parts.append(nn.functional.one_hot(((day + 3) % 7).long(), 7).to(time.dtype))
        if self.names:
            place = (day - BEGINS).long()
            for away in (-1, 0, 1):
                near = (place + away).clamp(0, len(self.named) - 1)
                parts.append(nn.functional.one_hot(self.named[near].long(), self.names + 1)[..., 1:].to(time.dtype))
        found = torch.cat(parts, -1)
        return torch.where(there[..., None], found, 0).to(torch.get_default_dtype())


def _waves(phase: Tensor, count: int) -> Tensor:
    """[..., 2 count]: sines and cosines of phases, 0 to 1, and of their multiples."""
    angles = 2 * math.pi * phase[..., None] * torch.arange(1, count + 1, device=phase.device)
    return torch.cat([angles.sin(), angles.cos()], -1)


def holidays_of(country: str) -> Tensor:
    """The holidays of a country, such as "US", from 1900 to 2100, as `Calendar` takes them, [days].

    Raises:
        InputError: there is no such country.
        RecurraError: the `holidays` library is missing.
    """
    try:
        from holidays import country_holidays
    except ImportError as error:
        raise RecurraError("holidays needs the library of that name; install it: pip install holidays") from error
    try:
        found = country_holidays(country, years=range(FIRST, LAST + 1))
    except (NotImplementedError, TypeError, AttributeError) as error:
        raise InputError(f"holidays is {country!r}; expected a country of that library: {one_line(error)}") from error
    first = date(FIRST, 1, 1).toordinal()
    named = torch.zeros(date(LAST, 12, 31).toordinal() - first + 1)
    numbers: dict[str, int] = {}
    for day, name in sorted(found.items()):
        if 0 <= day.toordinal() - first < len(named):
            named[day.toordinal() - first] = numbers.setdefault(name, len(numbers) + 1)
    return named
