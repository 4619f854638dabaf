"""Margins of rare labels, against their formula."""

import pytest
import torch

from recurra.errors import InputError
from recurra.tasks.heads.binary import Binary
from recurra.tasks.heads.rare_labels import RareLabels
from recurra.testing.tolerances import assert_close


def test_a_rare_yes_has_to_be_certain_by_more():
    counts, raw = [16.0, 1.0, 0.0], torch.randn(6, 3, 1, dtype=torch.float64)
    head, target = RareLabels(counts, strength=2.0).double(), torch.randint(2, (6, 3)).double()
    margins = torch.tensor([1.0, 2.0, 2.0]).double() * target
    assert_close("loss", head.loss(raw, target), Binary().loss(raw - margins[..., None], target))
    assert_close("surprise", head.surprise(raw, target), Binary().surprise(raw, target))
    assert_close("none", RareLabels(counts, 0).double().loss(raw, target), Binary().loss(raw, target))
    with pytest.raises(InputError, match="counts is"):
        RareLabels([-1.0])
