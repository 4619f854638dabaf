"""Views: offsets and strides in place of copies."""

import random

import pytest
import torch

from recurra.compiler.planning.schedule import _reshaped_strides, row_major


def factors(number, rng):
    """A shape of `number` elements, axes of length 1 among them."""
    shape = [1] * rng.randrange(3)
    while number > 1:
        shape.append(rng.choice([n for n in range(2, number + 1) if number % n == 0]))
        number //= shape[-1]
    rng.shuffle(shape)
    return tuple(shape)


def effective(shape, strides):
    return tuple(0 if n == 1 else s for n, s in zip(shape, strides, strict=True))


@pytest.mark.parametrize("seed", range(300))
def test_a_view_is_found_where_there_is_one(seed):
    rng = random.Random(seed)
    old = factors(rng.choice([6, 12, 24, 36]), rng)
    values = torch.arange(torch.Size(old).numel()).reshape(old)
    values = values.permute(rng.sample(range(len(old)), len(old)))
    if values.dim() and rng.random() < 0.3:
        values = values[..., None].expand(*values.shape, 2)
    new = factors(values.numel(), rng)
    strides = _reshaped_strides(tuple(values.shape), effective(values.shape, values.stride()), new)
    try:
        expected = values.view(new)
    except RuntimeError:
        assert strides is None
        return
    assert strides is not None
    assert torch.equal(torch.as_strided(values, new, strides), expected)


def test_what_is_row_major_can_be_seen_under_any_shape():
    assert _reshaped_strides((1, 1, 3, 4, 1), (0, 0, 4, 1, 0), (4, 3)) == row_major((4, 3))
