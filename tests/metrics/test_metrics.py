"""Metrics are those of the libraries people know them by, on random input; and of their definitions, by hand."""

import math

import numpy as np
import pytest
import torch

from recurra.errors import InputError
from recurra.metrics import labels, ranking, series, strings
from recurra.metrics.floors import floors, seasonal_naive, seasonal_naives, windows

LEVELS = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("season", [1, 7])
def test_errors_of_forecasts_by_hand(season):
    past, actual, forecast = draw(3, 40), draw(3, 5), draw(3, 5)
    for n in range(3):
        misses = [abs(float(past[n, t] - past[n, t - season])) for t in range(season, 40)]
        own = [float(actual[n, t] - forecast[n, t]) for t in range(5)]
        scale = sum(misses) / len(misses)
        assert math.isclose(series.mase(actual, forecast, past, season)[n], sum(map(abs, own)) / 5 / scale)
        square = sum(m * m for m in misses) / len(misses)
        assert math.isclose(
            series.rmsse(actual, forecast, past, season)[n], math.sqrt(sum(e * e for e in own) / 5 / square)
        )


def test_a_past_that_is_no_longer_than_the_season_is_measured_by_the_value_before():
    assert series.seasonal_error(torch.tensor([1.0, 3.0, 4.0]), 3) == 1.5


def test_missing_values_count_nowhere():
    actual, forecast, past = draw(6), draw(6), draw(20)
    quantiles, samples = draw(6, 3), draw(6, 9)
    gone, kept = torch.tensor([1, 4]), torch.tensor([0, 2, 3, 5])
    holes = actual.index_fill(0, gone, torch.nan)
    for score in (
        lambda a, n: series.mae(a, forecast[n]),
        lambda a, n: series.mase(a, forecast[n], past, 2),
        lambda a, n: series.rmsse(a, forecast[n], past, 2),
        lambda a, n: series.coverage(a, forecast[n] - 0.5, forecast[n] + 0.5),
        lambda a, n: series.scaled_crps(a, quantiles[n], LEVELS),
        lambda a, n: series.crps(a, samples[n]).nanmean(),
    ):
        assert torch.allclose(score(holes, torch.arange(6)), score(actual[kept], kept))
    assert series.mae(torch.full([2], torch.nan), torch.zeros(2)).isnan()


def test_crps_of_samples_and_of_dense_quantiles_meet():
    actual, samples = draw(4), draw(4, 2000)
    levels = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    dense = 2 * series.pinball(actual, samples.sort(-1).values, levels).mean(-1)
    assert torch.allclose(series.crps(actual, samples), dense, atol=1e-3)
    pairs = (samples[:, :50, None] - samples[:, None, :50]).abs().mean((1, 2))
    few = (samples[:, :50] - actual[:, None]).abs().mean(1) - pairs / 2
    assert torch.allclose(series.crps(actual, samples[:, :50]), few)


def test_pinball_is_least_at_the_quantile():
    values = torch.randn(4001, dtype=torch.float64)
    for level in LEVELS:
        best = values.quantile(level)
        near = [series.pinball(values, (best + shift).expand(4001, 1), level[None]).mean() for shift in (-0.2, 0, 0.2)]
        assert near[1] == min(near)
    with pytest.raises(InputError, match="one for each of 3 levels"):
        series.pinball(draw(4), draw(4, 2), LEVELS)


def test_series_against_utilsforecast():
    losses = pytest.importorskip("utilsforecast.losses")
    pandas = pytest.importorskip("pandas")
    ids, h, t = ["a", "b"], 5, 30
    actual, forecast, past = draw(2, h), draw(2, h), draw(2, t)
    quantiles = draw(2, h, 3).sort(-1).values
    frame = pandas.DataFrame({"unique_id": np.repeat(ids, h), "ds": list(range(h)) * 2, "y": actual.flatten()})
    frame["m"] = forecast.flatten().numpy()
    names = {"m": [f"q{n}" for n in range(3)]}
    for n, name in enumerate(names["m"]):
        frame[name] = quantiles[..., n].flatten().numpy()
    before = pandas.DataFrame({"unique_id": np.repeat(ids, t), "ds": list(range(-t, 0)) * 2, "y": past.flatten()})

    def theirs(score, *arguments, **options):
        return torch.tensor(score(frame, *arguments, **options)["m"].to_numpy())

    assert torch.allclose(theirs(losses.mae, ["m"]), series.mae(actual, forecast))
    assert torch.allclose(theirs(losses.mase, ["m"], 3, before), series.mase(actual, forecast, past, 3))
    assert torch.allclose(theirs(losses.rmsse, ["m"], 3, before), series.rmsse(actual, forecast, past, 3))
    for n, level in enumerate(LEVELS):
        found = losses.quantile_loss(frame, {"m": f"q{n}"}, q=float(level))["m"].to_numpy()
        assert np.allclose(found, series.pinball(actual, quantiles, LEVELS)[..., n].mean(-1))


def test_labels_against_scikit_learn():
    theirs = pytest.importorskip("sklearn.metrics")
    actual, predicted = torch.randint(0, 5, [60]), torch.randint(0, 6, [60])
    assert math.isclose(labels.accuracy(actual, predicted), theirs.accuracy_score(actual, predicted))
    for average in ("macro", "weighted", "micro"):
        assert math.isclose(labels.f1(actual, predicted, average), theirs.f1_score(actual, predicted, average=average))
    assert np.array_equal(labels.confusion(actual, predicted, 6), theirs.confusion_matrix(actual, predicted))
    for weights in ("linear", "quadratic"):
        ours = labels.kappa(actual, predicted, 6, weights)
        assert math.isclose(ours, theirs.cohen_kappa_score(actual, predicted, weights=weights))
    scores, item = draw(30, 8), torch.randint(0, 8, [30])
    truth = torch.nn.functional.one_hot(item, 8)
    assert math.isclose(
        ranking.ndcg(ranking.ranks(scores, item), 3), theirs.ndcg_score(truth.numpy(), scores.numpy(), k=3)
    )
    found = theirs.top_k_accuracy_score(item, scores, k=3, labels=range(8))
    assert math.isclose(ranking.hit_rate(ranking.ranks(scores, item), 3), found)


def test_labels_by_hand():
    actual, predicted = torch.tensor([0, 0, 1, 2, -1]), torch.tensor([0, 1, 1, 0, 2])
    assert labels.accuracy(actual, predicted) == 0.5
    assert math.isclose(labels.f1(actual, predicted), (0.5 + 2 / 3 + 0) / 3)
    assert labels.f1(actual, predicted, "micro") == 0.5
    assert labels.confusion(actual, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    with pytest.raises(InputError, match="predicted is"):
        labels.accuracy(actual, predicted[1:])


def test_spans():
    tags = ["B-P", "I-P", "O", "I-L", "I-L", "B-L", "I-P", None]
    assert labels.spans(tags) == {("P", 0, 2), ("L", 3, 5), ("L", 5, 6), ("P", 6, 7)}
    assert labels.span_f1([tags], [tags]) == 1
    assert labels.span_f1([tags], [["O"] * 8]) == 0
    assert labels.span_f1([["B-P", "I-P", "O"]], [["B-P", "O", "B-P"]]) == 0


def test_spans_against_seqeval():
    theirs = pytest.importorskip("seqeval.metrics")
    names = ["O", "B-P", "I-P", "B-L", "I-L"]
    for _ in range(20):
        one, other = ([[names[k] for k in torch.randint(0, 5, [12])] for _ in range(4)] for _ in range(2))
        assert math.isclose(labels.span_f1(one, other), theirs.f1_score(one, other), abs_tol=1e-12)


def test_strings_by_hand():
    assert strings.edit_distance("kitten", "sitting") == 3
    assert strings.edit_distance("", "abc") == strings.edit_distance("abc", "") == 3
    assert strings.error_rate(["abcd", "ef"], ["abed", ""]) == 0.5
    assert strings.exact_error([["ab", "ac"], ["x"]], ["ac", "y"]) == 0.5
    assert strings.bleu([list("abcde")], [list("abcde")]) == pytest.approx(100)
    assert strings.bleu([list("abcde")], [list("xyz")]) == 0
    with pytest.raises(InputError, match="holds no token"):
        strings.error_rate([""], ["a"])


def words(count, least=1):
    return [[f"w{k}" for k in torch.randint(0, 4, [int(torch.randint(least, 12, []))])] for _ in range(count)]


def test_word_error_against_jiwer():
    theirs = pytest.importorskip("jiwer")
    actual, predicted = words(10), words(10, least=0)
    assert math.isclose(
        strings.error_rate(actual, predicted),
        theirs.wer([" ".join(w) for w in actual], [" ".join(w) for w in predicted]),
    )


def test_bleu_against_sacrebleu():
    theirs = pytest.importorskip("sacrebleu")
    actual, predicted = words(30, 5), words(30, 5)
    lines = [[" ".join(w) for w in sentences] for sentences in (predicted, actual)]
    found = theirs.corpus_bleu(lines[0], [lines[1]], tokenize="none", smooth_method="none").score
    assert math.isclose(strings.bleu(actual, predicted), found, rel_tol=1e-9)


def test_ranks():
    scores = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [-torch.inf, 0.0, 1.0], [2.0, -torch.inf, 1.0]])
    assert ranking.ranks(scores, torch.tensor([2, 0, 1, 1])).tolist() == [1, 2, 1, 2]
    assert ranking.hit_rate(torch.tensor([0, 5, 9, 10]), 10) == 0.75
    assert ranking.ndcg(torch.tensor([0, 2, 10]), 10) == pytest.approx((1 + 0.5) / 3)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("season", [1, 2, 7])
def test_floors_of_all_beginnings_at_once(steps, season):
    past = torch.randn(steps).double().where(torch.rand(steps) < 0.7, torch.nan)
    ends = torch.randperm(steps)
    for horizon in (1, 5, 9):
        alone = [seasonal_naive(past[: end + 1], horizon, season) for end in ends]
        assert torch.equal(seasonal_naives(past, ends, horizon, season).nan_to_num(9), torch.stack(alone).nan_to_num(9))
    alone = [series.seasonal_error(past[: end + 1], season) for end in range(steps)]
    assert torch.allclose(series.seasonal_errors(past, season), torch.stack(alone), equal_nan=True)


def test_a_season_before_the_first_whole_one_counts():
    assert seasonal_naive(torch.tensor([5.0, 6.0, torch.nan]), 2, 2).tolist() == [6, 5]


def test_floors():
    past = torch.tensor([1.0, 2, 3, torch.nan, 5, 6, 7, torch.nan])
    assert seasonal_naive(past, 3)[:2].tolist() == [7, 7]
    assert seasonal_naive(past, 6, 3).tolist() == [6, 7, 5, 6, 7, 5]
    assert seasonal_naive(past, 3, 20).nan_to_num(0).tolist() == [1, 2, 3]
    assert seasonal_naive(past[3:4], 2).isnan().all()
    found = list(windows([torch.arange(10.0), torch.arange(5.0)], 2, 2))
    assert [(w.series, len(w.past), w.actual.tolist()) for w in found] == [
        (0, 6, [6, 7]), (0, 8, [8, 9]), (1, 1, [1, 2]), (1, 3, [3, 4])
    ]  # fmt: skip
    with pytest.raises(InputError, match="series 0 has 4 time steps; 2 windows of 2 and a past need 5"):
        list(windows([torch.arange(4.0)], 2, 2))
    scores = floors([torch.arange(12.0)], 3, 2, 2)
    assert scores["naive"] == {"mae": 2, "mase": 1}
    assert scores["seasonal naive"]["mae"] == pytest.approx(8 / 3)
