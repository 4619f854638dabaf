"""What is taken over from another model, what stands still meanwhile, votes, and answers to what is asked."""

import pytest
import torch
from test_resuming import FITS

import recurra
from recurra.data.sequences import Field
from recurra.data.vocabulary import Vocabulary
from recurra.data.words import from_tokens
from recurra.errors import InputError
from recurra.models.backbone import Backbone
from recurra.tasks.heads.categorical import Categorical
from recurra.tasks.heads.queried import Queried
from recurra.tasks.inlet import Inlet
from recurra.tasks.model import Model
from recurra.tasks.pools import pool
from recurra.tasks.transfer import Ensemble, Unfreezing, take_over
from recurra.testing.tolerances import assert_close


def model(names="abc", pattern="gru", width=8, size=2):
    word = Field("word", "category", "past", vocabulary=Vocabulary(names))
    inlet = Inlet([Field("y", "number", "past")], [word], width)
    return Model(inlet, Backbone(width, pattern), pool("each", width), torch.nn.Linear(width, size), Categorical(size))


def test_what_fits_is_taken_and_names_keep_their_meaning():
    source, other = model("abcd"), model("xdb", "gru*2", size=3)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    taken = take_over(other, source)
    theirs, ours = source.inlet.encoding.of_categories[0].weight, other.inlet.encoding.of_categories[0].weight
    own = before["inlet.encoding.of_categories.0.weight"]
    # missing, x, d, b, unknown
    assert_close("names", ours, torch.stack([theirs[0], own[1], theirs[4], theirs[2], theirs[5]]))
    for name, value in other.state_dict().items():
        if "of_categories" not in name:
            expected = source.state_dict()[name] if name in taken else before[name]
            assert torch.equal(value, expected), name
    assert {"inlet.of_series.weight", "backbone.blocks.0.recurrence.weight_hh_l0"} <= set(taken)
    assert not any(name.startswith(("outlook", "backbone.blocks.1")) for name in taken)
    with pytest.raises(InputError, match="source has no inlet or backbone"):
        take_over(model(width=6), source)


def test_a_classifier_begins_with_what_a_recommender_has_learned():
    words = [list("abba"), list("baab"), list("abab"), list("bb")]
    ours = from_tokens(words)
    events = {"user_id": [str(n) for n, w in enumerate(words) for _ in w], "item_id": [x for w in words for x in w]}
    start = recurra.Recommender("gru", width=8, steps=2).fit(events)
    settings = {"width": 8, "steps": 1, "learning_rate": 1e-12}
    found = recurra.Classifier("gru", **settings).fit(ours, ["x", "y", "x", "y"], start=start)
    hidden = "backbone.blocks.0.recurrence.weight_hh_l0"
    assert_close("taken", found.model_.state_dict()[hidden], start.model_.state_dict()[hidden], slack=1e-6)
    with pytest.raises(InputError, match="has not been fitted"):
        recurra.Classifier("gru", **settings).fit(ours, ["x", "y", "x", "y"], start=recurra.Recommender())


@pytest.mark.parametrize("name", FITS)
def test_every_estimator_begins_with_another(name, tmp_path):
    make, data = FITS[name]
    data, short = data(), {"steps": 1, "learning_rate": 1e-12}
    start = make().set_params(seed=3).fit(*data)
    found = make().set_params(**short).fit(*data, start=start, folder=tmp_path / "run")
    theirs = start.model_.state_dict()
    taken = {n: value for n, value in found.model_.state_dict().items() if n.startswith(("backbone.", "encoder."))}
    assert taken
    for key, value in taken.items():
        assert_close(key, value, theirs[key], slack=1e-6)
    with pytest.raises(InputError, match="data differ"):
        make().set_params(**short).fit(*data, folder=tmp_path / "run", resume=True)
    bad = {
        "has not been fitted": make(),
        "start is 'gru'": "gru",
        "same width": make().set_params(width=8, steps=1).fit(*data),
    }
    before = found.model_
    for message, other in bad.items():
        with pytest.raises(InputError, match=message):
            found.fit(*data, start=other)
    assert found.model_ is before


def test_translators_know_each_others_tokens_by_name():
    settings = {"width": 8, "learning_rate": 1e-12}
    start = recurra.Translator("gru", steps=2, width=8).fit([("ab", "xy"), ("bc", "yz")])
    found = recurra.Translator("gru", steps=1, **settings).fit([("cq", "zx"), ("b", "w")], start=start)
    for part, side in (("read", 0), ("said", 1)):
        one, other = (getattr(each.model_, part).weight for each in (found, start))
        names, known = (each.fields_[side].vocabulary.names for each in (found, start))
        for n, name in enumerate(names):
            if name in known:
                assert_close(name, one[n], other[list(known).index(name)], slack=1e-6)
        assert_close("special", one[len(names) :], other[len(known) :], slack=1e-6)
    classifier = recurra.Classifier("gru", width=8, steps=1).fit([[1.0, 2.0], [2.0, 1.0]], [0, 1])
    with pytest.raises(InputError, match="start is a Classifier"):
        recurra.Translator("gru", **settings).fit([("ab", "xy")], start=classifier)
    with pytest.raises(InputError, match="start is a Translator"):
        recurra.Classifier("gru", **settings).fit([[1.0, 2.0], [2.0, 1.0]], [0, 1], start=start)


def test_parts_learn_the_last_first():
    made = model(pattern="gru*2")
    parts = [made.inlet, *made.backbone.blocks, made.outlook]
    thaw = Unfreezing(parts, every=10)
    for step, awake in ((0, 1), (9, 1), (10, 2), (29, 3), (30, 4), (500, 4)):
        thaw({"step": step})
        assert [all(p.requires_grad for p in part.parameters()) for part in parts] == [False] * (4 - awake) + [
            True
        ] * awake


def test_an_ensemble_says_the_mean_of_what_its_models_say():
    models = [recurra.LanguageModel(5, 8, pattern).eval() for pattern in ("gru", "min-gru")]
    voters, tokens = Ensemble(models), torch.randint(5, (2, 7))
    whole, _ = voters(tokens)
    mean = torch.stack([m(tokens)[0].softmax(-1) for m in models]).mean(0)
    assert_close("mean", whole.exp(), mean)
    first, state = voters(tokens[:, :3], voters.initial_state(2))
    assert_close("cut", torch.cat([first, voters(tokens[:, 3:], state)[0]], 1), whole)
    with pytest.raises(InputError, match="models is empty"):
        Ensemble([])


def test_answers_to_each_item_sum_to_one():
    head, raw = Queried(4).double(), torch.randn(3, 5, 4, dtype=torch.float64)
    for item in range(4):
        chances = [(-head.surprise(raw, torch.full((3, 5), 2 * item + right))).exp() for right in (0, 1)]
        assert_close("sum", sum(chances), torch.ones(3, 5).double())
        assert_close("right", chances[1], head.probabilities(raw)[..., item])
    assert not head.surprise(raw, torch.full((3, 5), -1)).any()
    drawn = head.sample(raw[0, 0], 20_000)
    right = torch.stack([(drawn[drawn // 2 == k] % 2).double().mean() for k in range(4)])
    assert float((right - head.probabilities(raw[0, 0])).abs().max()) < 0.05
    assert head.there(head.predict(raw)).all()
    targets = torch.randint(-1, 8, (3, 5))
    torch.autograd.gradcheck(lambda r: head.loss(r, targets), raw.requires_grad_())
