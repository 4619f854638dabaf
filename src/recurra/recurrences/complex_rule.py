"""Matrix memories of complex keys as a delta rule."""

from collections.abc import Callable

import torch
from torch import Tensor

from recurra.problem import DeltaRule


def complex_rule(
    S: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, angle: Tensor,
    read: Callable[[Tensor], Tensor] = lambda o: o,
) -> DeltaRule:  # fmt: skip
    """Re(S^T q), given to `read`, of a complex memory S [.., K/2, V] to which conj(k) v^T is added, q and k:
    [.., K/2, 2]."""
    # A complex key is two: its real and its imaginary part. Both q and k enter conjugated.
    q, k = (torch.cat([z[..., 0], -z[..., 1]], -1) for z in (q, k))
    S = torch.cat([S.real, S.imag], -2).mT
    return DeltaRule(
        q, k, v, S, log_decay=log_decay, angle=angle,
        result=lambda o, S: (torch.complex(*S.mT.chunk(2, -2)), read(o)),
    )  # fmt: skip
