"""How far two ways of computing the same thing may differ: one table, in multiples of rounding."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDINGS = {torch.float64: 1e5, torch.float32: 2e3, torch.bfloat16: 64}
"""Allowed difference, in units of the dtype's rounding relative to the largest value compared.

Sums over a few dozen steps and products reassociate, and a gate may amplify a difference from step to step; float64
allows more roundings since they cost nothing in digits that matter (1e5 roundings are 2e-11).
"""


def assert_close(
    what: str, got: Tensor, expected: Tensor, dtype: torch.dtype | None = None, slack: Tensor | float = 0.0
) -> None:
    """Raise AssertionError, naming `what`, if two tensors differ by more than rounding, or in where they are NaN.

    Integers must be equal.

    Args:
        dtype: the type whose rounding counts; by default that of `got`.
        slack: what is allowed beyond that, for every entry or for all.
    """
    if got.shape != expected.shape:
        raise AssertionError(f"{what}: shape {list(got.shape)}, expected {list(expected.shape)}")
    if not (got.is_floating_point() or got.is_complex()):
        if not torch.equal(got, expected):
            raise AssertionError(f"{what}: {got.tolist()}, expected {expected.tolist()}")
        return
    real = dtype or (got.real.dtype if got.is_complex() else got.dtype)
    got, expected = got.detach().to(torch.complex128), expected.detach().to(torch.complex128)
    bad, wrong = ~got.isfinite(), ~expected.isfinite()
    further = torch.as_tensor(slack).detach().expand_as(got)
    if ((bad != wrong) & ~further.isinf()).any():
        raise AssertionError(f"{what}: NaN or Inf in {int(bad.sum())} places, expected in {int(wrong.sum())}")
    fine = ~(bad | wrong)
    if not fine.any():
        return
    got, expected, further = got[fine], expected[fine], further[fine]
    limit = ROUNDINGS[real] * torch.finfo(real).eps * max(1.0, float(expected.abs().max()))
    off = float(((got - expected).abs() - further).clamp(min=0).max())
    if not off <= limit:
        raise AssertionError(f"{what}: off by {off:.3g}, allowed {limit:.3g}")
