"""What estimators and heads do as they are: each on data on which it shows."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from toys import right, surprise, trained

import recurra
from recurra.metrics.columns import ablation
from recurra.metrics.labels import span_f1
from recurra.metrics.strings import edit_distance
from recurra.models.backbone import Backbone
from recurra.tasks.chain import Chain
from recurra.tasks.heads.categorical import Categorical
from recurra.tasks.heads.fourier import Fourier
from recurra.tasks.heads.margin import Hinge

pytestmark = pytest.mark.slow
WIDTH = 16


def cycles(count, seed):
    """Measurements of three channels of a battery's cycles, and how many it will live: [count, 3, 20], [count]."""
    dice = np.random.default_rng(seed)
    wear = dice.uniform(0.01, 0.05, count)
    fade = np.cumprod(1 - wear[:, None] * dice.uniform(0.5, 1.5, (count, 20)), 1)
    X = np.stack([fade, 1 / fade, dice.standard_normal((count, 20))], 1) + 0.01 * dice.standard_normal((count, 3, 20))
    return X, 100 * np.exp(-10 * wear) + 20


def test_what_is_left_of_cycles_beside_a_model_without_memory_and_without_each_channel():
    (X, y), (new, truth) = cycles(200, 0), cycles(100, 1)

    def missed(said):
        return float(np.mean(np.abs(said - truth) / truth))

    def score(channels):
        chosen = [int(name) for name in channels]
        made = recurra.Regressor("gru", width=WIDTH, steps=120, dropout=0.0, pool="last", head="normal")
        return -missed(made.fit(X[:, chosen], y).predict(new[:, chosen]))

    recurrent = -score(["0", "1", "2"])
    last = np.concatenate([X[:, :, -1], np.ones((200, 1))], 1)
    memoryless = missed(np.concatenate([new[:, :, -1], np.ones((100, 1))], 1) @ np.linalg.lstsq(last, y, rcond=None)[0])
    assert recurrent < 0.15
    assert memoryless < 0.3  # both are told, so that a case where recurrence loses is seen
    lost = ablation(["0", "1", "2"], score)
    assert len(lost) == 3
    assert lost["2"] < 0.05


@pytest.mark.parametrize("head", [Hinge, Categorical])
def test_margins_or_chances_behind_any_recurrence(head):
    head = head(2)
    model = Chain(nn.Linear(2, WIDTH), Backbone(WIDTH, "gru", mlp=0), nn.Linear(WIDTH, 2))

    def traffic(batch):
        x, attack = torch.randn(batch, 15, 2), torch.randint(2, (batch,))
        return x + 1.2 * attack[:, None, None] * torch.linspace(0, 1, 15)[:, None], attack

    def loss():
        x, attack = traffic(64)
        return head.loss(model(x)[0][:, -1], attack)

    trained(model, loss, 80)
    x, attack = traffic(400)
    assert float((head.predict(model(x)[0][:, -1]) == attack).double().mean()) > 0.9


def walk(users, seed):
    """What each takes follows the item before, mostly."""
    dice = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        item = int(dice.integers(30))
        for _ in range(12):
            rows.append((f"u{user}", f"i{item}"))
            item = (7 * item + 3 + int(dice.integers(3))) % 30
    return {"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows]}


@pytest.mark.parametrize("pattern", ["attention", "gru", "min-gru"])
def test_next_items_by_attention_and_recurrences(pattern):
    found = recurra.Recommender(pattern, width=WIDTH, steps=200, dropout=0.0, window=24, batch=16, again=True)
    report = found.fit(walk(150, 0)).evaluate(walk(100, 1))
    hits = {name: value for name, value in report.items() if isinstance(value, float)}
    assert max(hits.values()) > 0.5, report
    assert report["seconds"] > 0


def typed(count, seed):
    """Words with a letter typed wrong now and then, and as they were meant."""
    dice = np.random.default_rng(seed)
    words = ["banana", "cherry", "orange", "papaya", "tomato", "carrot", "pepper", "onions"]
    pairs = []
    for _ in range(count):
        word = words[int(dice.integers(8))]
        noise = "".join(c if dice.random() > 0.2 else chr(97 + int(dice.integers(26))) for c in word)
        pairs.append((noise, word))
    return pairs


def test_typing_errors_are_corrected():
    found = recurra.Translator("gru", width=24, steps=200, dropout=0.0, learning_rate=8e-3).fit(typed(400, 0))
    new = typed(100, 1)
    said = found.predict([noise for noise, _ in new], beam=2)
    ours = sum(edit_distance(truth, "".join(word)) for word, (_, truth) in zip(said, new, strict=True))
    theirs = sum(edit_distance(truth, noise) for noise, truth in new)
    assert ours < 0.5 * theirs
    assert sum(p.numel() for p in found.model_.parameters()) > 0


def test_sequences_are_turned_around():
    dice = np.random.default_rng(0)
    sources = ["".join("abcd"[int(k)] for k in dice.integers(4, size=int(dice.integers(1, 6)))) for _ in range(1500)]
    pairs = [(s, s[::-1]) for s in sources]
    found = recurra.Translator("lstm", width=32, steps=500, dropout=0.0, learning_rate=8e-3).fit(pairs[:1300])
    assert found.evaluate(pairs[1300:], beam=3)["wrong"] < 0.05


@pytest.mark.parametrize("pattern", ["min-gru*2", "min-gru+attention", "attention*2"])
def test_a_language_model_alone_translates(pattern):
    """Source, a mark, target in one text; only what follows the mark counts in the loss: b is a plus 4."""
    model = recurra.LanguageModel(9, 24, pattern)

    def texts(batch):
        source = torch.randint(4, (batch, 6))
        return torch.cat([source, torch.full((batch, 1), 8), source + 4], 1), source

    def loss():
        x, _ = texts(64)
        return surprise(model(x)[0][:, 6:-1], x[:, 7:])

    trained(model, loss, 350)
    x, source = texts(100)
    said, state = model(x[:, :7])
    told = [said[:, -1].argmax(-1)]
    for _ in range(5):
        one, state = model.advance(told[-1], state)
        told.append(one.argmax(-1))
    assert float((torch.stack(told, 1) == source + 4).double().mean()) > 0.6  # by chance an eighth


def test_words_are_found_in_text_without_spaces():
    """Letters are tagged: a word begins, goes on, ends, or is a letter; words never seen are found as well."""
    dice = np.random.default_rng(0)

    def text(words):
        letters, tags = [], []
        for _ in range(6):
            word = words[int(dice.integers(len(words)))]
            letters += list(word)
            tags += ["S"] if len(word) == 1 else ["B", *["M"] * (len(word) - 2), "E"]
        return letters, tags

    def made(count):
        return [
            "".join([*dice.choice(list("ptk"), 1), *dice.choice(list("aeiou"), int(dice.integers(0, 3)))])
            for _ in range(count)
        ]

    known, new = made(40), made(40)
    train, test = [text(known) for _ in range(150)], [text(new) for _ in range(50)]
    found = recurra.Tagger("lstm", width=WIDTH, steps=120, dropout=0.0).fit(*map(list, zip(*train, strict=True)))
    letters, tags = map(list, zip(*test, strict=True))
    spans = [["B-w" if t in "BS" else "I-w" for t in row] for row in tags]
    said = [["B-w" if t in "BS" else "I-w" for t in row] for row in found.predict(letters)]
    assert span_f1(spans, said) > 0.9


def test_several_answers_for_each_letter():
    """Each letter has two marks, by its neighbours: one head for each, on one recurrence."""
    heads = [nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 2)]
    model = Chain(nn.Embedding(6, WIDTH), Backbone(WIDTH, "gru", mlp=0, bidirectional=True))

    def letters(batch):
        x = torch.randint(6, (batch, 12))
        behind = torch.cat([x[:, 1:], x[:, :1]], 1)
        return x[:, :-1], [behind[:, :-1] % 3, (x[:, :-1] < behind[:, :-1]).long()]

    def loss():
        x, marks = letters(32)
        y, _ = model(x)
        return sum(surprise(head(y)[:, :-1], mark[:, :-1]) for head, mark in zip(heads, marks, strict=True))

    trained(nn.ModuleList([model, *heads]), loss, 150)
    x, marks = letters(200)
    y, _ = model(x)
    assert all(right(head(y)[:, :-1], mark[:, :-1]) > 0.95 for head, mark in zip(heads, marks, strict=True))


def price(days=500, seed=0):
    dice = np.random.default_rng(seed)
    moved = np.zeros(days)
    for t in range(1, days):
        moved[t] = 0.7 * moved[t - 1] + 0.01 * dice.standard_normal()
    return 100 * np.exp(np.cumsum(moved))


def test_levels_or_returns_are_forecast_and_compared_in_levels():
    level = price()
    change = np.diff(np.log(level))
    errors, split = {}, 400
    for name, series in (("level", level[1:]), ("return", change)):
        table = {"ds": np.arange(len(series), dtype=float), "y": series * (1 if name == "level" else 100)}
        past, new = ({k: v[part] for k, v in table.items()} for part in (slice(split), slice(split, None)))
        found = recurra.Forecaster("lstm", width=WIDTH, steps=150, head="normal", dropout=0.0).fit(past)
        told = np.asarray(found.update(new)["expected"])
        forecast = told if name == "level" else level[split : len(level) - 1] * np.exp(told / 100)
        errors[name] = float(np.mean(np.abs(forecast - level[split + 1 :])))
    naive = float(np.mean(np.abs(np.diff(level)[split:])))
    assert errors["return"] < naive
    assert math.isfinite(errors["level"])


def test_trends_are_classes_and_cost_is_told():
    change = np.diff(np.log(price(900)))
    windows = np.lib.stride_tricks.sliding_window_view(change[:-1], 10)[:-1]
    rising = (change[10 : 10 + len(windows)] > 0).astype(int)
    found = recurra.Classifier("lstm", width=WIDTH, steps=120, pool="last").fit(100 * windows[:600], rising[:600])
    report = found.evaluate(100 * windows[600:], rising[600:])
    assert report["accuracy"] > report["floors"]["most frequent"]["accuracy"] + 0.05
    assert report["parameters"] > 0
    assert report["seconds"] > 0


def test_walks_forward_week_by_week_with_errors_by_weekday():
    days = np.datetime64("2024-01-01") + np.arange(300)
    dice = np.random.default_rng(0)
    y = 10.0 + 5 * (np.arange(300) % 7 >= 5) + dice.standard_normal(300)
    table = {"ds": days, "y": y}
    squares = np.zeros(7)
    for week in range(3):  # fitted again each week, on what had come by then
        end = 279 + 7 * week
        past = {name: column[:end] for name, column in table.items()}
        found = recurra.Forecaster("gru", horizon=7, width=WIDTH, steps=120, dropout=0.0).fit(past)
        told = np.asarray(found.predict()["y"])
        for day, off in zip(days[end : end + 7], told - y[end : end + 7], strict=True):
            squares[(day.astype(int) + 3) % 7] += off**2
    rmse = np.sqrt(squares / 3)
    assert len(rmse) == 7
    assert rmse.mean() < 2.5  # the deviation of all days is 2.5, of a weekday 1


@pytest.mark.parametrize("pattern", ["lstm", "attention", "gru+attention"])
def test_any_recurrence_or_attention_writes_the_same_captions(pattern):
    pairs = [(w, w.upper()) for w in ("ab", "ba", "abb", "bab", "aab", "bba")] * 4
    found = recurra.Translator(pattern, decoder=pattern, width=WIDTH, steps=150, dropout=0.0, learning_rate=8e-3).fit(
        pairs
    )
    assert found.evaluate(pairs[:6])["wrong"] <= 1 / 6


def test_eight_layers_on_each_side_still_translate():
    dice = np.random.default_rng(0)
    sources = ["".join("abc"[int(k)] for k in dice.integers(3, size=int(dice.integers(1, 4)))) for _ in range(300)]
    pairs = [(s, s.upper()) for s in sources]
    found = recurra.Translator("lstm*8", width=WIDTH, mlp=0, steps=150, dropout=0.0, learning_rate=8e-3, batch=16)
    assert found.fit(pairs).evaluate(pairs[:50], beam=2)["wrong"] < 0.1


def test_a_density_of_waves_is_smoother_than_classes_and_says_new_numbers_better():
    def numbers(count):
        side = 2.0 * (torch.rand(count) < 0.4) - 1
        return side + 0.4 * torch.randn(count)

    edges = torch.linspace(-4, 4, 65)
    waves, classes, x, new = Fourier(8), Categorical(64), numbers(150), numbers(4000).clamp(-3.9, 3.9)
    raw = [nn.Parameter(0.1 * torch.randn(head.size)) for head in (waves, classes)]

    def of_classes(value):
        """Minus the logarithm of the density."""
        place = torch.bucketize(value, edges) - 1
        return classes.surprise(raw[1].expand(len(value), -1), place) + math.log(8 / 64)

    def of_waves(value):
        return waves.surprise(raw[0].expand(len(value), -1), value)

    trained(nn.ParameterList(raw), lambda: of_waves(x).mean() + of_classes(x).mean(), 400, 3e-2)
    grid = (edges[1:] + edges[:-1]) / 2
    with torch.no_grad():
        densities = [(-told(grid)).exp() for told in (of_waves, of_classes)]
        missed = [float(told(new).mean()) for told in (of_waves, of_classes)]
    assert all((density >= 0).all() for density in densities)
    rough = [float(density.diff().abs().sum()) for density in densities]
    assert rough[0] < 0.8 * rough[1]
    assert missed[0] < missed[1]
