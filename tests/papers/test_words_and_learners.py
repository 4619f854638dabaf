"""Letters, caches, large vocabularies, deeper and deeper models; what learners answer; what was learned elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toys import right, surprise, trained

import recurra
from recurra.data.vectors import read_vectors
from recurra.data.words import from_tokens
from recurra.metrics.columns import forward_selection, relief_f
from recurra.metrics.labels import kappa, span_f1
from recurra.metrics.ranking import auc, hit_rate, ranks
from recurra.models.backbone import Backbone
from recurra.models.growing import grown
from recurra.models.recalling import Recalling
from recurra.nn.sampled import SampledSoftmax
from recurra.nn.weight_drop import weight_drop
from recurra.tasks.beam import beam
from recurra.tasks.chain import Chain
from recurra.tasks.heads.binary import Binary
from recurra.tasks.heads.crf import CRF
from recurra.tasks.heads.queried import Queried
from recurra.tasks.heads.rare_labels import RareLabels
from recurra.tasks.inlets.letters import LetterConvolutions
from recurra.tasks.inlets.patches import Patches
from recurra.tasks.pools import Attention, LabelAttention
from recurra.tasks.transfer import Ensemble, Unfreezing
from recurra.training.averaging import Averaged, Trigger

pytestmark = pytest.mark.slow
WIDTH = 16


def words(batch, time=8):
    """Words of two letters and an ending that says what comes next: letters [B, T, 3], their numbers [B, T]."""
    stem, ending = torch.randint(25, (batch, time)), torch.zeros(batch, time, dtype=torch.int64)
    for t in range(1, time):
        ending[:, t] = (stem[:, t - 1] + ending[:, t - 1]) % 4
    letters = torch.stack([stem // 5, 5 + stem % 5, 10 + ending], 2)
    return letters, 4 * stem + ending


def test_letters_a_projected_lstm_and_sampled_classes_learn_to_say_what_follows():
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        blocks = Backbone(WIDTH, "projected-lstm", mlp=0, layers={"projected-lstm": {"hidden": 32, "projection": 8}})
        scores = SampledSoftmax(WIDTH, 100, samples=40)
        model = Chain(LetterConvolutions(14, WIDTH, filters=8, reaches=(1, 2)), blocks)

        def loss(model=model, scores=scores):
            letters, numbers = words(32)
            return scores.loss(model(letters)[0][:, :-1], numbers[:, 1:])

        trained(nn.ModuleList([model, scores]), loss, 250)
        models.append(Chain(*model, scores))
    letters, numbers = words(200)
    alone = [float(surprise(m(letters)[0][:, :-1], numbers[:, 1:]).detach()) for m in models]
    both = float(surprise(Ensemble(models)(letters)[0][:, :-1], numbers[:, 1:]).detach())
    assert max(alone) < np.log(100) - 0.5  # the best that can be known are endings, log 4
    assert both <= sum(alone) / 2 + 1e-6


def test_a_cache_recalls_the_names_of_a_text():
    def text(batch):
        """Each text is of four names of its own, in any order."""
        names = torch.rand(batch, 60).argsort(1)[:, :4]
        return names.gather(1, torch.randint(4, (batch, 40)))

    model = weight_drop(recurra.LanguageModel(60, WIDTH, "lstm"), 0.3)
    averaged, trigger = Averaged(model), Trigger(patience=2)

    def loss():
        x = text(16)
        value = surprise(model(x)[0][:, :-1], x[:, 1:])
        if trigger.tell(value.item()):
            averaged.update()
        return value

    trained(model, loss, 60)
    assert trigger.fired
    x = text(64)
    with torch.no_grad(), averaged.applied():
        plain = float(surprise(model(x)[0][:, :-1], x[:, 1:]))
        cached = float(surprise(Recalling(model, size=40, share=0.5, flatness=0.2)(x)[0][:, :-1], x[:, 1:]))
    assert cached < plain - 0.3


def frames(batch):
    """A label at each frame, of what is before it and behind it."""
    x = torch.randn(batch, 20, 3)
    return x, (x[:, :-2, 0] + x[:, 2:, 1] > 0).long()


def test_eight_layers_in_both_directions_grown_two_by_two():
    model = Backbone(WIDTH, "lstm*2", mlp=0, bidirectional=True)
    inlet, outlet, losses = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2), []
    for depth in (2, 4, 8):
        model = grown(model, f"lstm*{depth}") if depth > 2 else model
        whole = Chain(inlet, model, outlet)

        def loss(whole=whole):
            x, label = frames(16)
            return surprise(whole(x)[0][:, 1:-1], label)

        losses.append(trained(whole, loss, 80))
    assert len(model.blocks) == 8
    assert losses[2] < losses[0]
    assert losses[2] < 0.35


def test_coarse_time_first_then_fine():
    """A pyramid whose steps become finer while it trains: what follows the largest of four steps."""
    pyramid = Patches(8, how="max")
    model = Chain(nn.Linear(1, WIDTH), pyramid, Backbone(WIDTH, "lstm", mlp=0), nn.Linear(WIDTH, 2))
    scores = []
    for size in (8, 4, 2):
        pyramid.size = pyramid.every = size

        def loss():
            x = torch.randn(32, 32, 1)
            return surprise(model(x)[0][:, -1], (x[:, :16].amax((1, 2)) > x[:, 16:].amax((1, 2))).long())

        scores.append(trained(model, loss, 120))
    assert scores[-1] < 0.5  # which of two halves is higher is log 2 to who does not know


def test_labels_that_look_for_themselves_and_margins_for_rare_ones():
    chances = torch.tensor([0.4, 0.2, 0.05])

    def notes(batch):
        there = torch.rand(batch, 3) < chances
        x = torch.randint(3, 12, (batch, 15))
        for label in range(3):
            x[there[:, label], 5 * label + torch.randint(5, ())] = label
        return x, there.float()

    scores = {}
    for name, head in (("plain", Binary()), ("margins", RareLabels((1000 * chances).tolist()))):
        blocks = Backbone(WIDTH, "gru", mlp=0, bidirectional=True)
        model = Chain(nn.Embedding(12, WIDTH), blocks, LabelAttention(WIDTH, 3))

        def loss(model=model, head=head):
            x, there = notes(32)
            return head.loss(model(x)[0][:, -1, :, None], there)

        trained(model, loss, 150)
        x, there = notes(600)
        raw = model(x)[0][:, -1].detach()
        scores[name] = auc(there.flatten(), raw.flatten())
        assert scores[name] > 0.95
        rare = float(raw[:, 2][there[:, 2] == 1].mean() - raw[:, 2][there[:, 2] == 0].mean())
        scores[name + " apart"] = rare
    assert scores["margins apart"] > scores["plain apart"]


def students(count, time=40, items=6):
    """Students who get better at each item by trying it: 2 item + right, [count, time]."""
    skill, answers = torch.randn(count, 1) + torch.linspace(-1.5, 0.5, items), []
    for _ in range(time):
        item = torch.randint(items, (count, 1))
        correct = (torch.rand(count, 1) < skill.gather(1, item).sigmoid()).long()
        answers.append(2 * item + correct)
        skill = skill.scatter_add(1, item, torch.full((count, 1), 0.4))
    return torch.cat(answers, 1)


@pytest.mark.parametrize("pattern", ["lstm", "lstm+attention"])
def test_knowledge_is_traced_answer_by_answer(pattern):
    items, head = 6, Queried(6)
    model = Chain(nn.Embedding(2 * items, WIDTH), Backbone(WIDTH, pattern), nn.Linear(WIDTH, items))

    def loss():
        answers = students(32)
        return head.loss(model(answers)[0][:, :-1], answers[:, 1:])

    trained(model, loss, 150)
    answers = students(300)
    raw, _ = model(answers[:, :-1])
    asked, correct = answers[:, 1:] // 2, answers[:, 1:] % 2
    said = head.probabilities(raw).gather(2, asked[..., None])[..., 0].detach()
    often = torch.stack([(correct[asked == k]).double().mean() for k in range(items)])
    assert auc(correct.flatten(), said.flatten()) > auc(correct.flatten(), often[asked].flatten()) + 0.05
    _, state = model(answers[:, :20])
    one, _ = model(answers[:, 20:21], state)  # the next answer, at the cost of one step
    torch.testing.assert_close(one, raw[:, 20:21], atol=1e-4, rtol=1e-4)


def events(count, seed, classes=True):
    """Logs of sensors: rooms are visited in one order in the morning, in the other in the evening."""
    dice = np.random.default_rng(seed)
    rooms = [f"room {n}" for n in range(24)]
    logs, labels = [], []
    for _ in range(count):
        evening, at, log = int(dice.integers(2)), int(dice.integers(24)), []
        for _ in range(12):
            at = (at + (1 if evening else -1) * int(dice.integers(1, 3))) % 24
            log.append(rooms[at])
        logs.append(log)
        labels.append("evening" if evening else "morning")
    return (logs, labels) if classes else logs


def test_what_one_log_has_taught_helps_with_another():
    big, (few, kinds), (new, truth) = events(300, 0, classes=False), events(16, 1), events(300, 2)
    table = {
        "user_id": [str(n) for n, log in enumerate(big) for _ in log],
        "item_id": [room for log in big for room in log],
    }
    teacher = recurra.Recommender("gru", width=WIDTH, steps=250, dropout=0.0).fit(table)
    train, test = from_tokens(few), None
    name = next(iter(train.fields))
    teacher.model_.inlet.encoding.categories[0] = replace(teacher.model_.inlet.encoding.categories[0], name=name)
    test = from_tokens(new, like=list(train.fields.values()))
    scores = {}
    for start in (None, teacher):
        settings = {"width": WIDTH, "steps": 60, "dropout": 0.0, "pool": "attention"}
        found = recurra.Classifier("gru", **settings).fit(train, kinds, start=start)
        scores[start is None] = found.score(test, truth)
    assert scores[False] > scores[True]
    assert scores[False] > 0.8


def test_unfreezing_and_votes_of_models_that_began_elsewhere():
    """A model of what comes next, then of which kind it was; the blocks learn after the head."""

    def sequence(batch):
        kind = torch.randint(2, (batch,))
        steps = torch.randint(1, 3, (batch, 12)) * (2 * kind[:, None] - 1)
        return (torch.randint(9, (batch, 1)) + steps.cumsum(1)) % 9, kind

    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        parts = nn.Embedding(9, WIDTH), Backbone(WIDTH, "gru", mlp=0)
        language = Chain(*parts, nn.Linear(WIDTH, 9))

        def learn(language=language):
            x, _ = sequence(32)
            return surprise(language(x)[0][:, :-1], x[:, 1:])

        trained(language, learn, 80)
        model = Chain(*parts, Attention(WIDTH), nn.Linear(WIDTH, 2))
        thaw, steps = Unfreezing([model[0], model[1], nn.Sequential(model[2], model[3])], every=20), iter(range(1, 999))

        def classify(model=model, thaw=thaw, steps=steps):
            x, kind = sequence(8)
            value = surprise(model(x)[0][:, -1], kind)
            thaw({"step": next(steps)})
            return value

        trained(model, classify, 60)
        models.append(model)
    x, kind = sequence(400)
    votes = right(Ensemble(models)(x)[0][:, -1], kind)
    assert votes >= min(right(m(x)[0][:, -1], kind) for m in models)
    assert votes > 0.9


def test_essays_are_graded_and_agreement_is_weighed():
    """A grade counts how often b follows a, which a bag of words does not see."""

    def essays(count, seed):
        dice = torch.Generator().manual_seed(seed)
        x = torch.randint(3, (count, 14), generator=dice)
        grade = ((x[:, :-1] == 0) & (x[:, 1:] == 1)).sum(1).clamp(max=3)
        return nn.functional.one_hot(x, 3).transpose(1, 2).double().numpy(), grade

    X, y = essays(500, 0)
    new, truth = essays(300, 1)
    found = recurra.Regressor("lstm", pool="mean", width=WIDTH, steps=400, dropout=0.0, head="normal").fit(
        X, y.double().numpy()
    )
    said = torch.from_numpy(np.asarray(found.predict(new))).round().clamp(0, 3).long()
    bag, bag_new = (torch.from_numpy(np.concatenate([part.mean(2), np.ones((len(part), 1))], 1)) for part in (X, new))
    by_words = (bag_new @ torch.linalg.lstsq(bag, y.double()[:, None]).solution)[:, 0].round().clamp(0, 3).long()
    assert kappa(truth, said, 4) > kappa(truth, by_words, 4) + 0.2


def test_selected_features_then_a_recurrence():
    """Six measurements at each visit, of which the trends of two say the stage."""

    def visits(count, seed):
        dice = np.random.default_rng(seed)
        X, rate = dice.standard_normal((count, 6, 8)), dice.uniform(-0.6, 0.6, (count, 2))
        X[:, [1, 4]] += rate[..., None] * np.arange(8)
        return X, (rate.sum(1) > 0).astype(int)

    X, y = visits(160, 0)
    new, truth = visits(200, 1)
    slopes = torch.from_numpy((X * (np.arange(8) - 3.5)).sum(2))
    assert set(relief_f(slopes, torch.from_numpy(y)).argsort(descending=True)[:2].tolist()) == {1, 4}

    def score(columns):
        chosen = [int(name) for name in columns]
        settings = {"width": 8, "steps": 60, "dropout": 0.0}
        return recurra.Classifier("lstm", **settings).fit(X[:100, chosen], y[:100]).score(X[100:, chosen], y[100:])

    order = [name for name, _ in forward_selection(["0", "1", "4"], score, 2)]
    assert set(order) == {"1", "4"}
    assert recurra.Classifier("lstm", width=8, steps=100).fit(X[:, [1, 4]], y).score(new[:, [1, 4]], truth) > 0.85


def test_the_likelier_of_two_captions_forwards_and_backwards():
    """Captions of shapes, "colour form size", said from either end; and the picture that belongs to a caption."""

    def shapes(batch):
        parts = torch.stack(
            [torch.randint(4, (batch,)), 4 + torch.randint(4, (batch,)), 8 + torch.randint(4, (batch,))], 1
        )
        seen = sum(nn.functional.one_hot(parts[:, k], 12) for k in range(3)).float()
        return seen + 0.2 * torch.randn(batch, 12), parts

    end, begin, captioners = 12, 13, []

    class Captioner(nn.Module):
        def __init__(self, back):
            super().__init__()
            self.back, self.see, self.said = back, nn.Linear(12, WIDTH), nn.Embedding(14, WIDTH)
            self.blocks, self.out = Backbone(WIDTH, "lstm", mlp=0), nn.Linear(WIDTH, 13)

        def forward(self, seen, said, state=None):
            y, state = self.blocks(self.said(said) + self.see(seen)[:, None], state)
            return self.out(y), state

        def surprises(self, seen, caption):
            caption = caption.flip(1) if self.back else caption
            edge = torch.full((len(seen), 1), begin)
            raw, _ = self(seen, torch.cat([edge, caption], 1))
            told = torch.cat([caption, edge - 1], 1)
            return -raw.log_softmax(-1).gather(2, told[..., None])[..., 0].sum(1)

        def write(self, seen):
            def step(last, state, which):
                raw, after = self(seen[which], last[:, None], state)
                return raw[:, 0].log_softmax(-1), after, None

            found = beam(step, self.blocks.initial_state(len(seen)), begin, end, width=3, longest=5)
            return found.tokens[:, :3].flip(1) if self.back else found.tokens[:, :3], found.scores

    for back in (False, True):
        made = Captioner(back)
        trained(made, lambda made=made: made.surprises(*shapes(64)).mean(), 150)
        captioners.append(made)
    seen, truth = shapes(100)
    (ahead, likely), (backward, as_likely) = (made.write(seen) for made in captioners)
    caption = torch.where((likely >= as_likely)[:, None], ahead, backward)
    assert float((caption == truth).all(1).double().mean()) > 0.9
    few, names = shapes(30)
    alike = -torch.stack(
        [sum(made.surprises(few, name.expand(30, 3)) for made in captioners) for name in names]
    ).detach()
    assert hit_rate(ranks(alike, torch.arange(30)), 5) > 0.9


def test_words_by_vectors_of_others_are_tagged_in_spans(tmp_path):
    """Times are named by words that training has not seen; a file of vectors knows what they are like."""
    times, others = [f"time{n}" for n in range(20)], [f"word{n}" for n in range(20)]
    path = tmp_path / "vectors.txt"
    lines = [f"{w} {float(w in times) + 0.1 * n % 1:.3f} {n / 40:.3f}\n" for n, w in enumerate(times + others)]
    path.write_text("".join(lines))
    vectors, there = read_vectors(path, times + others)
    assert there.all()
    scores = {}
    for name in ("given", "drawn"):
        known = nn.Embedding.from_pretrained(vectors if name == "given" else torch.randn(40, 2), freeze=name == "given")
        blocks = Backbone(WIDTH, "lstm", mlp=0, bidirectional=True)
        model, head = Chain(known, nn.Linear(2, WIDTH), blocks, nn.Linear(WIDTH, 3)), CRF(3)

        def sentences(batch, low, high):
            """Words and tags O, B, I: two words of time in a row are a span."""
            time = torch.rand(batch, 10) < 0.4
            which = torch.randint(low, high, (batch, 10))
            before = torch.cat([torch.zeros(batch, 1, dtype=torch.bool), time[:, :-1]], 1)
            return torch.where(time, which, 20 + which), torch.where(time, 1 + before.long(), 0)

        def loss(model=model, head=head):
            x, tags = sentences(32, 0, 10)
            return head.loss(model(x)[0], tags)

        trained(nn.ModuleList([model, head]), loss, 150)
        x, tags = sentences(100, 10, 20)
        said = head.predict(model(x)[0])
        as_text = [[[("O", "B-time", "I-time")[t] for t in row] for row in rows.tolist()] for rows in (tags, said)]
        scores[name] = span_f1(*as_text)
    assert scores["given"] > 0.8
    assert scores["given"] > scores["drawn"] + 0.2
