"""Views: offsets and strides in place of copies."""

import random

import pytest
import torch

from recurra.compiler.frontend.graph import Graph
from recurra.compiler.planning.schedule import _reshaped_strides, _Scheduler, row_major, schedule


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


def test_what_an_operation_waits_for_is_found_once(monkeypatch):
    """However many loops are merged: a long step is not looked through again for each."""
    found, look = [], _Scheduler._found

    def noted(self, user):
        found.append(user)
        return look(self, user)

    monkeypatch.setattr(_Scheduler, "_found", noted)
    graph = Graph()
    h, rows = graph.input("state.h", (8,)), []
    for _ in range(40):
        rows.append(graph.reduce("sum", graph.pointwise("mul", graph.input("weight.W", (8, 8)), h), (1,)))
        h = graph.pointwise("tanh", rows[-1])
    schedule({"next.h": h, **{f"y{i}": row for i, row in enumerate(rows)}})
    assert len(found) == len(set(found)) > 80
