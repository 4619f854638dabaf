"""Which columns are worth something, and how scores order pairs."""

import math

import pytest
import torch

from recurra.errors import InputError
from recurra.metrics.columns import ablation, forward_selection, relief_f
from recurra.metrics.ranking import auc, hit_rate, ranks


def test_relief_finds_what_tells_classes_apart_together():
    X = torch.rand(200, 5)
    y = ((X[:, 1] > 0.5) ^ (X[:, 3] > 0.5)).long()  # neither says anything by itself
    weights = relief_f(X, y)
    assert set(weights.argsort(descending=True)[:2].tolist()) == {1, 3}
    assert weights[[1, 3]].min() > 3 * weights[[0, 2, 4]].abs().max()


def test_columns_are_taken_by_what_they_add_and_missed_by_what_they_lose():
    worth = {"a": 1.0, "b": 5.0, "c": 3.0}

    def score(columns):
        return sum(worth[name] for name in columns) - (3.5 if {"b", "c"} <= set(columns) else 0)

    assert forward_selection("abc", score) == [("b", 5.0), ("a", 6.0)]
    assert [name for name, _ in forward_selection("abc", score, 3)] == ["b", "a", "c"]
    assert ablation("abc", score) == {"b": 1.5, "a": 1.0, "c": -0.5}


def test_auc_counts_pairs():
    actual, scores = torch.randint(2, (60,)), torch.randint(9, (60,)).float()
    yes, no = scores[actual == 1], scores[actual == 0]
    apart = yes[:, None] - no
    expected = float((apart > 0).double().mean() + (apart == 0).double().mean() / 2)
    assert auc(actual, scores) == pytest.approx(expected)
    assert math.isnan(auc(torch.ones(3), torch.rand(3)))


def test_recall_of_pairs_that_belong_together():
    alike = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.3, 0.5], [0.0, 0.1, 0.2]])
    places = ranks(alike, torch.arange(3))
    assert [hit_rate(places, k) for k in (1, 2, 3)] == pytest.approx([2 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: relief_f(torch.rand(4, 2), torch.tensor([0, 0, 0, 1])), "a class of a single case"),
        (lambda: relief_f(torch.rand(4), torch.zeros(4)), r"X is \[4\]"),
        (lambda: forward_selection([], len), "columns is empty"),
        (lambda: ablation(["a"], len), "two names at least"),
        (lambda: auc(torch.rand(3), torch.rand(2)), r"scores are \[2\]"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises(InputError, match=said):
        call()
