"""What holds for any estimator, backbone and head, drawn anew each time."""

import numpy as np
import pytest
import torch

import recurra
from recurra.data.reading import Carried, Packed, Padded
from recurra.errors import InputError
from recurra.tasks import horizon
from recurra.tasks.feeding import feed
from recurra.tasks.heads.names import NUMBER_HEADS
from recurra.tasks.origins import loss as origin_loss
from recurra.tasks.walk import forecasts, origins
from recurra.testing.tolerances import assert_close

PATTERNS = ("gru", "lstm", "mamba", "slstm", "min-gru+attention", "gated-delta-net", "lru+rg-lru", "s4d")
POOLS = ("mean", "max", "attention", "last")
H = 3


def draw(choices):
    return choices[np.random.randint(len(choices))]


def series(names="ab", lengths=(50, 37)):
    """Days of some series, with holes, one covariate known ahead and one that is not."""
    parts = []
    for name, length in zip(names, lengths, strict=True):
        t = np.arange(length)
        y = 20 + 5 * (t % 7 == 5) + np.random.randn(length)
        y[1:][np.random.rand(length - 1) < 0.1] = np.nan
        parts.append({
            "unique_id": np.array([name] * length, object), "ds": np.datetime64("2024-02-20") + t, "y": y,
            "promo": (np.random.rand(length) < 0.4).astype(float), "rain": np.random.rand(length),
        })  # fmt: skip
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def chosen(columns, mask):
    return {name: column[mask] for name, column in columns.items()}


def forecaster(data, **options):
    """A forecaster whose settings are drawn, said in full where a test fails."""
    head = draw(sorted(NUMBER_HEADS))
    settings = {
        "pattern": draw(PATTERNS), "head": head, "scale": draw(("running", "fit", "none")), "horizon": H, "width": 8,
        "memory": draw((None, 20)), "known": ["promo"], "steps": 3, "window": 16, "batch": 2, "mlp": draw((0, 8)),
    }  # fmt: skip
    settings |= options
    print(settings)
    if head == "negative-binomial":
        data = data | {"y": np.round(np.abs(data["y"]))}
    return recurra.Forecaster(**settings).fit(data), data


def ends(data, steps):
    last = np.zeros(len(data["y"]), bool)
    for name in np.unique(data["unique_id"].astype(str)):
        last[np.flatnonzero(data["unique_id"] == name)[-steps:]] = True
    return last


def told(table):
    return {name: torch.from_numpy(np.asarray(table[name], float)) for name in table if name[0] == "y"}


def same(one, two, what):
    for name, value in told(one).items():
        assert_close(f"{what}, {name}", value.float(), told(two)[name].float())


def ahead(data):
    """What is known of the horizon behind each series."""
    found = {"unique_id": [], "ds": [], "promo": []}
    for name in dict.fromkeys(data["unique_id"]):
        last = data["ds"][data["unique_id"] == name].max()
        found["unique_id"] += [name] * H
        found["ds"] += [last + 1 + n for n in range(H)]
        found["promo"] += [1.0, 0.0, 1.0]
    return {name: np.array(values, object if name == "unique_id" else None) for name, values in found.items()}


@pytest.mark.parametrize("number", range(2))
def test_of_a_forecaster(number, tmp_path):  # noqa: ARG001
    """Updates are reading the whole, rows one by one too; series are told the same alone; files bring it back."""
    model, data = forecaster(series())
    last, known = ends(data, 5), ahead(data)
    whole = model.predict(data, known=known, level=[80])
    other = model._another()._stand(model._regular(chosen(data, ~last)))
    other.update(chosen(data, last))
    same(whole, other.predict(known=known, level=[80]), "updates")
    row_by_row = model._another()._stand(model._regular(chosen(data, ~last)))
    for n in np.flatnonzero(last):
        row_by_row.update(chosen(data, np.arange(len(data["y"])) == n))
    same(whole, row_by_row.predict(known=known, level=[80]), "rows")
    for name in "ab":
        alone = model.predict(chosen(data, data["unique_id"] == name), known=known, level=[80])
        same(chosen(whole, np.asarray(whole["unique_id"]) == name), alone, f"{name} alone")
    other.save(tmp_path)
    again = recurra.Forecaster.load(tmp_path)
    one, two = (each.predict(known=known, level=[80], samples=2) for each in (other, again))
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("number", range(2))
def test_nothing_of_the_future_is_seen(number):  # noqa: ARG001
    """Rows behind an origin may be anything, but what is known ahead within the horizon; the scale, the calendar and
    what is missing included."""
    model, data = forecaster(series("a", (40,)))
    at = int(np.random.randint(8, 30))
    before = model._regular(data)
    spoilt = {name: column.copy() for name, column in data.items()}
    spoilt["y"][at + 1 :] = draw((np.nan, 1e6, 0.0))
    spoilt["rain"][at + 1 :] = draw((np.nan, -5.0))
    spoilt["promo"][at + 1 + H :] = 9.0
    rows = torch.tensor([at])
    raws = [forecasts(model.model_, each, rows) for each in (before, model._regular(spoilt))]
    assert_close("raw", raws[0][0], raws[1][0])
    assert_close("scale", raws[0][1].scale.mean, raws[1][1].scale.mean)


@pytest.mark.parametrize("number", range(2))
def test_one_pass_is_refeeding_every_origin(number):  # noqa: ARG001
    model, data = forecaster(series())
    sequences = model._regular(data)
    rows = origins(sequences, H, 4, 2).reshape(-1)
    raw, _ = forecasts(model.model_, sequences, rows)
    for n, row in enumerate(rows.tolist()):
        which = int(sequences.sequence_of[row])
        part = sequences.select([which]).clip(stop=row - int(sequences.offsets[which]) + 1 + H)
        alone, _ = forecasts(model.model_, part, torch.tensor([part.steps - 1 - H]))
        assert_close("raw", raw[n], alone[0])


@pytest.mark.parametrize("number", range(2))
def test_a_row_that_is_absent_is_one_that_is_missing(number):  # noqa: ARG001
    """In fitting, reading, updates, streams and evaluation."""
    data = series("a", (45,))
    gone = np.isin(np.arange(45), [10, 11, 30, 41])
    blank = {name: column.copy() for name, column in data.items()}
    for name in ("y", "promo", "rain"):
        blank[name][gone] = np.nan
    model, blank = forecaster(blank)
    twin = model.clone().fit(chosen(blank, ~gone))
    assert all(torch.equal(a, b) for a, b in zip(model.model_.parameters(), twin.model_.parameters(), strict=True))
    known, holed, late = ahead(blank), chosen(blank, ~gone), np.arange(45) >= 40
    same(model.predict(blank, known=known), model.predict(holed, known=known), "read")
    ways = [model._another()._stand(model._regular(chosen(blank, ~late))) for _ in range(2)]
    streams = [way.stream("a") for way in ways]
    full = ways[0].update(chosen(blank, late))
    part = ways[1].update(chosen(blank, late & ~gone))
    assert len(part["y"]) == 4
    there = ~gone[late]
    assert_close("surprise", torch.from_numpy(full["surprise"][there]), torch.from_numpy(part["surprise"]))
    same(ways[0].predict(known=known), ways[1].predict(known=known), "updated")
    for n in np.flatnonzero(late):
        row = {name: blank[name][n] for name in ("ds", "y", "promo", "rain")}
        one = streams[0].update(row)
        if not gone[n]:
            two = streams[1].update(row)
            assert_close("expected", one[0], two[0])
    reports = [model.evaluate(each, windows=3) for each in (blank, holed)]
    assert reports[0]["mae"] == pytest.approx(reports[1]["mae"], rel=1e-5)
    with pytest.raises(InputError, match="whole steps, such as 2024-04-06"):
        ways[0].update({"unique_id": ["a"], "ds": ["2024-04-05T12:00"], "y": [1.0], "promo": [0], "rain": [0.0]})


@pytest.mark.parametrize("kind", [recurra.Classifier, recurra.Regressor])
def test_of_whole_sequences(kind, tmp_path):
    """Together as alone, row by row as whole, a batch in any order, files bring it back."""
    X = [np.random.randn(2, n) for n in (1, 6, 11, 4, 8, 3)]
    X[2][0, 3] = np.nan
    y = list("abcabc") if kind is recurra.Classifier else np.random.randn(6)
    options = {} if kind is recurra.Classifier else {"head": draw(("normal", "student-t", "quantile"))}
    model = kind(draw(PATTERNS), pool=draw(POOLS), scale=draw(("fit", "running", "none")), width=8, steps=3, **options)
    print(model)
    with pytest.raises(InputError, match="has not been fitted"):
        model.predict(X)
    tell = getattr(model.fit(X, y), "predict_proba" if kind is recurra.Classifier else "predict")
    whole = torch.from_numpy(tell(X)).float()
    order = np.random.permutation(6)
    assert_close("order", whole[order], torch.from_numpy(tell([X[n] for n in order])).float())
    for n, case in enumerate(X):
        assert_close("alone", whole[n], torch.from_numpy(tell([case])).float()[0])
        stream = model.stream()
        for row in case.T:
            last = stream.update(row)
        assert_close("row by row", whole[n], torch.as_tensor(last).float())
    model.save(tmp_path)
    assert np.array_equal(kind.load(tmp_path).predict(X), model.predict(X))


@pytest.mark.parametrize("number", range(2))
def test_losses_packed_padded_and_apart(number):  # noqa: ARG001
    """The loss of sequences one behind the other, side by side and one by one is that of all their steps."""
    model, data = forecaster(series("abc", (20, 9, 14)), scale="running")
    sequences, net = model._regular(data), model.model_
    if net.backbone.endless:
        return  # such a layer begins afresh in each window of the first way
    counts = {}
    apart, carried = Padded(sequences, 1, None), Carried(sequences, 1, 7, None)
    for way in (Packed(sequences, 4, 20, None), Padded(sequences, 3, None), apart, carried):
        total, there, state = 0.0, 0, None
        for batch in way:
            with torch.no_grad():
                loss, state = origin_loss(
                    net, sequences, batch, state if isinstance(way, Carried) else None, feed("truth")
                )
            count = int((~horizon.truth(net, sequences, batch.rows).isnan()).sum())
            total, there = total + float(loss) * count, there + count
        counts[type(way).__name__, way.batch] = torch.tensor(total / there)
    first, *others = counts.values()
    for other in others:
        assert_close("loss", first, other)
