"""Pools and the scaler: recurrences that keep every law, held to what they should have seen."""

import pytest
import torch

from recurra.errors import InputError
from recurra.tasks.inlets.trend import Trend
from recurra.tasks.pools import POOLS, Attention, Each, LabelAttention, Max, Mean, pool
from recurra.tasks.scaler import Scaler
from recurra.testing.laws import check_recurrence
from recurra.testing.tolerances import assert_close

LAWS = {
    "mean": lambda: Mean(3),
    "max": lambda: Max(3),
    "attention": lambda: Attention(6, 2),
    "label attention": lambda: LabelAttention(4, 3),
    "scaler": lambda: Scaler(3, memory=4),
    "trend": lambda: Trend(3, memory=4),
}


@pytest.mark.parametrize("name", LAWS)
def test_laws(name):
    check_recurrence(LAWS[name], ["compiled"])


def softmax_mean(layer, x):
    weights = (x @ layer.to_scores.weight.T).softmax(1).repeat_interleave(x.shape[2] // layer.heads, -1)
    return (weights * x).sum(1)


WHOLE = {
    "each": lambda _, x: x[:, -1],
    "last": lambda _, x: x[:, -1],
    "mean": lambda _, x: x.mean(1),
    "max": lambda _, x: x.amax(1),
    "attention": softmax_mean,
}


@pytest.mark.parametrize("name", POOLS)
def test_at_each_step_a_pool_has_seen_what_came_so_far(name):
    layer, x = pool(name, 6).double(), torch.randn(2, 7, 6, dtype=torch.float64)
    y, state = layer(x)
    for t in range(7):
        assert_close(f"step {t}", y[:, t], WHOLE[name](layer, x[:, : t + 1]))
    y, _ = layer(x, lengths=torch.tensor([7, 3]))
    assert not y[1, 3:].any()
    assert set(state) == set(layer.initial_state(2))


def test_each_label_looks_where_it_likes():
    layer, x = LabelAttention(6, 3).double(), torch.randn(2, 7, 6, dtype=torch.float64)
    scores = layer.to_hidden(x).tanh() @ layer.to_scores.weight.T
    seen = torch.einsum("btl,btd->bld", scores.softmax(1), x)
    expected = (seen * layer.to_values.weight).sum(-1) + layer.to_values.bias
    assert_close("label attention", layer(x)[0][:, -1], expected)


def test_a_trend_and_the_rest_are_the_series():
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    trend, rest = Trend(3, memory=100)(x)[0].chunk(2, -1)
    assert_close("sum", trend + rest, x)
    assert_close("trend", trend[:, 5], x[:, :6].mean(1))


def test_there_is_no_such_pool():
    with pytest.raises(InputError, match="pool is 'sum'"):
        pool("sum", 4)
    assert isinstance(pool("each", 4), Each)


def scales(x):
    """The mean and the deviation of what is there of x [T], written out."""
    there = x[~x.isnan()]
    if not len(there):
        return 0.0, 1.0
    mean = there.mean()
    spread = (there.var(correction=0) + (mean / len(there)) ** 2).sqrt()
    return mean, max(spread, 1e-6 * mean.abs()) or 1.0


def test_the_scaler_knows_what_came_so_far_and_passes_over_what_is_missing():
    x = 100 * torch.randn(3, 20, 4, dtype=torch.float64) + 40
    x[torch.rand(3, 20, 4) < 0.4] = float("nan")
    x[0, :, 0], x[1, :, 1], x[2, :, 2] = float("nan"), 0.0, 7.0
    means, spreads = Scaler(4)(x)[0].chunk(2, -1)
    for b, t, d in torch.cartesian_prod(torch.arange(3), torch.arange(20), torch.arange(4)).tolist():
        mean, spread = scales(x[b, : t + 1, d])
        assert_close("mean", means[b, t, d], torch.as_tensor(mean).double())
        assert_close("spread", spreads[b, t, d], torch.as_tensor(spread).double())
    for factor in (1e-20, -3.0, 1e12):  # in other units
        other = Scaler(4)(factor * x)[0].chunk(2, -1)
        seen = ~x[:, :, 3:].isnan().all(1, keepdim=True)
        assert_close("mean", torch.where(seen, other[0][..., 3:], 0) / factor, torch.where(seen, means[..., 3:], 0))


def test_with_a_memory_the_distant_past_is_forgotten():
    x = torch.cat([torch.full((1, 500, 1), -1e3), 10 + torch.randn(1, 500, 1)], 1).double()
    mean, spread = Scaler(1, memory=40)(x)[0][0, -1]
    assert abs(mean - 10) < 2
    assert 0.3 < spread < 2.5
    weights = (1 - 1 / 40) ** torch.arange(500).flip(0).double()
    late = x[0, 500:, 0]
    assert_close("mean", mean, (weights * late).sum() / weights.sum(), slack=0.01)


def test_a_long_constant_series_is_not_blown_up():
    y, _ = Scaler(1)(torch.full((1, 3000, 1), 0.1))
    mean, spread = y[0, -1]
    assert_close("mean", mean, torch.tensor(0.1))
    assert 0 < spread < 1e-3
