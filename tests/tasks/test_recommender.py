"""The recommender: updates are reading the whole, what was had is not said again, files bring it back."""

import numpy as np
import pytest
import torch

from recurra.data.frames import from_events
from recurra.errors import InputError
from recurra.tasks.passing import read_of, start
from recurra.tasks.recommender import Recommender
from recurra.testing.tolerances import assert_close


def events(users=12, items=9, low=3, high=8):
    """Users who walk through items in a circle, each from somewhere."""
    who, what = [], []
    for user in range(users):
        first, length = np.random.randint(items), np.random.randint(low, high)
        who += [f"u{user}"] * length
        what += [f"i{(first + n) % items}" for n in range(length)]
    return {"user_id": who, "item_id": what}


def recommender(**options):
    return Recommender(**{"pattern": "gru", "width": 12, "steps": 3, "batch": 4, "window": 6} | options)


def parted(data):
    """All but the last event of each user, and those."""
    who = np.array(data["user_id"])
    last = np.append(who[1:] != who[:-1], True)
    return tuple({n: list(np.array(v)[mask]) for n, v in data.items()} for mask in (~last, last))


def scores(found, user):
    with torch.no_grad():
        return found.model_.outlook(read_of(found._standing.place.rows([found._standing.ids.index(user)])).y[0, 0])


def test_updates_are_reading_the_whole():
    data = events()
    before, last = parted(data)
    found, whole = recommender().fit(before), recommender().fit(before)
    other = found._read(data, found.fields_)
    for user, item in zip(last["user_id"], last["item_id"], strict=True):
        found.update((str(user), str(item)))
    whole.update(last)
    again = recommender().fit(before)
    again._stand_at([], start(again.model_, 0))
    again._had = []
    again.update(other)
    for user in dict.fromkeys(data["user_id"]):
        assert_close(user, scores(found, user), scores(whole, user))
        assert_close(user, scores(again, user), scores(whole, user))
        assert found.predict(user) == whole.predict(user) == again.predict(user)


def test_what_was_had_is_not_said_again(tmp_path):
    data = events()
    found = recommender().fit(data)
    for user in dict.fromkeys(data["user_id"]):
        had = {i for u, i in zip(data["user_id"], data["item_id"], strict=True) if u == user}
        said = found.predict(user, k=100)
        assert set(said) == set(data["item_id"]) - had
        assert len(set(found.set_params(again=True).predict(user, k=100))) == 9
        found.set_params(again=False)
    found.save(tmp_path)
    loaded = Recommender.load(tmp_path)
    for user in dict.fromkeys(data["user_id"]):
        assert loaded.predict(user) == found.predict(user)


def test_it_learns_to_go_on():
    data = events(60)
    found = recommender(steps=120, dropout=0.0).fit(parted(data)[0])
    report = found.evaluate(data, k=1)
    assert report["hit_rate"] > 0.8 > report["floors"]["popular"]["hit_rate"]
    assert report["users"] == 60
    alone = from_events(data, like=found.fields_).select([5])
    assert found.evaluate(alone, k=1)["hit_rate"] in (0.0, 1.0)


def test_users_that_are_new_and_items_that_may_not_be():
    found = recommender().fit(events(40))
    found.update(("nobody", "i1"))
    assert len(found.predict("nobody", k=8)) == 8
    with pytest.raises(InputError, match="never seen"):
        found.update(("nobody", "new"))
    assert found.predict("nobody", k=100)[:8] == found.predict("nobody", k=8)


BAD = {
    "column": (lambda d: recommender(item="film").fit(d), "'film'"),
    "unfitted": (lambda d: recommender().predict("u1"), "not been fitted"),
    "user": (lambda d: recommender(steps=1).fit(d).predict("u99"), "user is 'u99'"),
    "k": (lambda d: recommender(steps=1).fit(d).predict("u1", k=0), "k is 0"),
    "event": (lambda d: recommender(steps=1).fit(d).update(("u1", 3)), "expected a table, or"),
    "short": (lambda d: recommender(steps=1).fit(d).evaluate({"user_id": ["a"], "item_id": ["i1"]}), "no user"),
    "again": (lambda d: recommender(again=1).fit(d), "again is 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    make, message = BAD[case]
    with pytest.raises(InputError, match=message):
        make(events())
