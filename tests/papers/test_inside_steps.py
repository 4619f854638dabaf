"""Pictures, words and sentences inside steps: each on data on which the order of steps, or what is inside, decides."""

import pytest
import torch
from torch import nn
from toys import right, surprise, trained

import recurra
from recurra.metrics.ranking import auc
from recurra.models.backbone import Backbone
from recurra.tasks.chain import Chain, at_end
from recurra.tasks.heads.crf import CRF
from recurra.tasks.inlets.nested import EachStep, Nested
from recurra.tasks.inlets.pair import Pair
from recurra.tasks.inlets.patches import Segments
from recurra.tasks.inlets.refined import Refined
from recurra.tasks.pools import Attention, Max, Mean

pytestmark = pytest.mark.slow
WIDTH = 16


def clips(batch):
    """A square crosses the picture to the right or to the left: [B, T, 1, 4, 8], lengths, which way."""
    way, lengths = torch.randint(2, (batch,)), torch.randint(4, 9, (batch,))
    done = (torch.arange(8) / (lengths[:, None] - 1)).clamp(max=1)
    column = (7 * torch.where(way[:, None] == 1, done, 1 - done)).round().long()
    x = torch.zeros(batch, 8, 4, 8)
    x[torch.arange(batch)[:, None], torch.arange(8), torch.randint(4, (batch, 1)), column] = 1.0
    return x[:, :, None], lengths, way


def test_clips_whose_single_pictures_say_nothing():
    def model(time):
        seen = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, WIDTH))
        return Chain(EachStep(seen), *time, nn.Linear(WIDTH, 2))

    def answer(made, x, lengths):
        return at_end(made(x, lengths=lengths)[0], lengths)

    scores = {}
    for name, time in (("recurrent", [Backbone(WIDTH, "gru", mlp=0)]), ("average", [Mean(WIDTH)])):
        made = model(time)

        def loss(made=made):
            x, lengths, way = clips(32)
            return surprise(answer(made, x, lengths), way)

        trained(made, loss, 120)
        x, lengths, way = clips(400)
        scores[name] = right(answer(made, x, lengths), way)
        assert made[0].module[0].weight.grad.any()
    assert scores["recurrent"] > 0.95
    assert scores["average"] < 0.65


def documents(batch):
    """Two documents of sentences [B, S, W], and whether they are of one topic: most words are of any."""
    topic = torch.randint(5, (batch, 2))
    same = torch.rand(batch) < 0.5
    topic[same, 1] = topic[same, 0]
    words = torch.randint(50, (2, batch, 4, 6))
    own = 5 * torch.randint(10, words.shape) + topic.T[..., None, None]
    words = torch.where(torch.rand(words.shape) < 0.4, own, words)
    words[torch.rand(words.shape[:3]) < 0.2] = -1  # some sentences are empty
    return *words, (topic[:, 0] == topic[:, 1]).float()


def test_two_long_documents_that_match_by_sentences_and_words():
    sentence = Chain(nn.Embedding(50, WIDTH), Backbone(WIDTH, "gru", mlp=0), Mean(WIDTH))
    model = nn.Sequential(Pair(Chain(Nested(sentence), Backbone(WIDTH, "gru", mlp=0), Mean(WIDTH))))
    judge = nn.Sequential(nn.Linear(4 * WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
    both = nn.ModuleList([model, judge])

    def loss():
        a, b, same = documents(64)
        return nn.functional.binary_cross_entropy_with_logits(judge(model[0](a, b))[:, 0], same)

    trained(both, loss, 250)
    a, b, same = documents(400)
    assert auc(same, judge(model[0](a, b))[:, 0].detach()) > 0.85


def test_rounds_of_a_dialogue_about_what_was_seen_before():
    """Each round is a picture's and a question's numbers in one vector; the answer is what the first picture was."""

    def rounds(batch):
        seen = torch.randint(4, (batch, 5))
        x = torch.cat([nn.functional.one_hot(seen, 4).float(), torch.randn(batch, 5, 4)], -1)
        return x, seen[:, :1].expand(-1, 5)

    scores = {}
    for name, time in (("recurrent", [Backbone(WIDTH, "lstm", mlp=0)]), ("alone", [nn.Tanh()])):
        model = Chain(nn.Linear(8, WIDTH), *time, nn.Linear(WIDTH, 4))

        def loss(model=model):
            x, answer = rounds(64)
            return surprise(model(x)[0], answer)

        trained(model, loss)
        x, answer = rounds(300)
        scores[name] = right(model(x)[0][:, 1:], answer[:, 1:])
    assert scores["recurrent"] > 0.95
    assert scores["alone"] < 0.4


def dialogue(batch, turns=6):
    """Words of utterances [B, T, W] and their acts: the same words are another act by what was before."""
    word = torch.randint(3, (batch, turns))
    acts = torch.zeros(batch, turns, dtype=torch.int64)
    before = torch.zeros(batch, dtype=torch.int64)
    for t in range(turns):
        before = torch.where(word[:, t] == 2, 2 + before % 2, word[:, t])
        acts[:, t] = before
    words = torch.randint(9, (batch, turns, 5)) + 10
    words.scatter_(2, torch.randint(5, (batch, turns, 1)), word[..., None])
    lengths = torch.randint(5, 6, (batch, turns, 1))
    return torch.where(torch.arange(5) < lengths, words, -1), acts


def utterances(*after):
    words = Chain(nn.Embedding(20, WIDTH), Backbone(WIDTH, "gru", mlp=0, bidirectional=True), Max(WIDTH))
    return Chain(Nested(words), *after, nn.Linear(WIDTH, 4))


def test_utterances_are_told_by_those_before():
    scores = {}
    for name, history in (("with", [Backbone(WIDTH, "gru", mlp=0)]), ("without", [])):
        model = utterances(*history)

        def loss(model=model):
            words, acts = dialogue(32)
            return surprise(model(words)[0], acts)

        trained(model, loss, 120)
        words, acts = dialogue(200)
        scores[name] = right(model(words)[0], acts)
    assert scores["with"] > scores["without"] + 0.05
    assert scores["with"] > 0.95


def test_three_levels_and_a_field_beat_utterances_by_themselves():
    head, scores = CRF(4), {}
    for name, between in (("three levels", [Backbone(WIDTH, "gru", mlp=0, bidirectional=True)]), ("flat", [])):
        model = utterances(*between)
        both = nn.ModuleList([model, head])

        def loss(model=model, name=name):
            words, acts = dialogue(32)
            raw = model(words)[0]
            return head.loss(raw, acts) if name == "three levels" else surprise(raw, acts)

        trained(both, loss, 120)
        words, acts = dialogue(200)
        raw = model(words)[0]
        said = head.predict(raw) if name == "three levels" else raw.argmax(-1)
        scores[name] = float((said == acts).double().mean())
    assert scores["three levels"] > scores["flat"] + 0.05


def test_segments_keep_the_order_of_a_long_clip():
    """Which of two events came first, somewhere in 60 steps: the largest of all steps cannot tell."""

    def events(batch):
        x, order = 0.3 * torch.randn(batch, 60, 4), torch.randint(2, (batch,))
        at = torch.rand(batch, 60).argsort(1)[:, :2].sort(1).values
        x[torch.arange(batch), at[:, 0], order] += 3
        x[torch.arange(batch), at[:, 1], 1 - order] += 3
        return x, order

    scores = {}
    parts = {
        "segments": lambda: Chain(
            Segments(12), nn.Linear(4, WIDTH), Backbone(WIDTH, "lstm", mlp=0), nn.Linear(WIDTH, 2)
        ),
        "largest": lambda: Chain(nn.Linear(4, WIDTH), nn.ReLU(), Max(WIDTH), nn.Linear(WIDTH, 2)),
    }
    for name, make in parts.items():
        model = make()

        def loss(model=model):
            x, order = events(64)
            return surprise(model(x)[0][:, -1], order)

        trained(model, loss, 200)
        x, order = events(400)
        scores[name] = right(model(x)[0][:, -1], order)
    assert scores["segments"] > 0.85
    assert scores["largest"] < 0.65


def test_readings_that_refine_one_another_tell_what_follows():
    """Whether all words of the second sentence are in the first one."""

    def pairs(batch):
        first = torch.rand(batch, 12).argsort(1)[:, :6]
        inside = first.gather(1, torch.rand(batch, 6).argsort(1)[:, :3])
        other = torch.rand(batch, 12).argsort(1)[:, :3]
        follows = torch.rand(batch) < 0.5
        second = torch.where(follows[:, None], inside, other)
        return first, second, (second[:, :, None] == first[:, None]).any(2).all(1).float()

    refined = Refined(lambda width: recurra.layer("lstm", width), WIDTH, depth=2, bidirectional=True)
    pair = Pair(Chain(nn.Embedding(12, WIDTH), refined, Max(refined.output_width)))
    judge = nn.Sequential(nn.Linear(4 * refined.output_width, 32), nn.ReLU(), nn.Linear(32, 1))

    def loss():
        first, second, follows = pairs(64)
        return nn.functional.binary_cross_entropy_with_logits(judge(pair(first, second))[:, 0], follows)

    trained(nn.ModuleList([pair, judge]), loss, 250)
    first, second, follows = pairs(400)
    assert auc(follows, judge(pair(first, second))[:, 0].detach()) > 0.9


def test_a_planted_motif_is_found_where_it_is():
    """Convolutions, both directions, attention: symbols of any length with a motif of three somewhere, or without."""
    motif = torch.tensor([3, 1, 4])

    def symbols(batch):
        x, there = torch.randint(6, (batch, 20)), torch.rand(batch) < 0.5
        lengths, at = torch.randint(12, 21, (batch,)), torch.randint(9, (batch,))
        at = torch.where(there, at, -9)
        for k in range(3):
            x[there, at[there] + k] = motif[k]
        found = (x.unfold(1, 3, 1) == motif).all(2) & (torch.arange(18) + 3 <= lengths[:, None])
        return x, lengths, found.any(1).long(), found

    class Near(nn.Module):
        """A convolution over time."""

        def __init__(self):
            super().__init__()
            self.filters = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

        def forward(self, x):
            return self.filters(x.transpose(1, 2)).transpose(1, 2).relu()

    look = Attention(WIDTH, 1)
    model = Chain(
        nn.Embedding(6, WIDTH), Near(), Backbone(WIDTH, "lstm", mlp=0, bidirectional=True), look, nn.Linear(WIDTH, 2)
    )

    def loss():
        x, lengths, there, _ = symbols(64)
        return surprise(at_end(model(x, lengths=lengths)[0], lengths), there)

    trained(model, loss, 400)
    x, lengths, there, found = symbols(400)
    assert right(at_end(model(x, lengths=lengths)[0], lengths), there) > 0.9
    seen = model[:3](x, lengths=lengths)[0] @ look.to_scores.weight.T
    seen = torch.where((torch.arange(20) < lengths[:, None]), seen[..., 0], -torch.inf)
    once = found.sum(1) == 1
    off = (seen.argmax(1)[once] - found.long().argmax(1)[once] - 1).abs()
    assert float((off <= 2).double().mean()) > 0.7
