"""How far entries have faded: sums of log gates between each entry and each time step after it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


class Fades:
    """Sums of gates between entries and time steps; none is a difference of two long sums, which would lose digits.

    Args:
        carried: [B, H, S], by how much the entries carried in have faded.
        log_gate: [B, H, T].
    """

    def __init__(self, carried: Tensor, log_gate: Tensor):
        self.carried, self.log_gate = carried, log_gate

    def decays(self, time: int) -> Tensor:
        """By how much all entries have faded after the first `time` time steps, [B, H, S + time]."""
        gates = self.log_gate[..., :time]
        later = pad(gates.flip(-1).cumsum(-1).flip(-1), (0, 1))[..., 1:]
        return torch.cat([self.carried + gates.sum(-1, keepdim=True), later], -1)

    def bias(self, begin: int, end: int, first: int) -> Tensor:
        """By how much entries from `first` on have faded at time steps begin to end - 1, [B, H, end - begin, ...]."""
        place = torch.arange(self.carried.shape[2] + end, device=self.log_gate.device)
        later = place[self.carried.shape[2] + begin :, None] > place
        within = torch.where(later, self.log_gate[..., begin:end, None], 0).cumsum(-2)
        return (pad(self.decays(begin), (0, end - begin))[..., None, :] + within)[..., first:]
