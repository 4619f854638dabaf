"""Laws over shapes, cuts and resets that hypothesis draws, and shrinks when one is broken."""

from dataclasses import replace
from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recurra
from recurra.testing.cases import compare, draw
from recurra.testing.laws import engines_for
from recurra.testing.tolerances import assert_close

DRAWN = settings(max_examples=60)
names = st.sampled_from(list(recurra.layers()))
pairs = st.sampled_from(
    [(n, e) for n in recurra.layers() for e in engines_for(partial(recurra.layer, n, 8), torch.float64)]
)


@DRAWN
@given(pairs, st.integers(0, 4), st.integers(0, 9), st.floats(0, 1), st.data())
def test_cut_anywhere(pair, batch, time, where, data):
    name, engine = pair
    case = draw(lambda: recurra.layer(name, 8), torch.float64, batch, time, state=True)
    starts = data.draw(st.lists(st.booleans(), min_size=batch * time, max_size=batch * time))
    case = replace(case, resets=torch.tensor(starts, dtype=torch.bool).reshape(batch, time))
    cut = round(where * time)
    y, end = case.run(engine)
    first, state = replace(case, x=case.x[:, :cut], resets=case.resets[:, :cut]).run(engine)
    second, state = replace(case, x=case.x[:, cut:], resets=case.resets[:, cut:], state=state).run(engine)
    assert_close("y", torch.cat([first, second], 1), y)
    for key, value in end.items():
        assert_close(key, state[key], value)


@DRAWN
@given(names, st.integers(0, 5), st.integers(0, 9), st.booleans(), st.booleans(), st.booleans())
def test_what_runs_by_default_is_the_reference(name, batch, time, state, resets, lengths):
    options = {"state": state, "resets": resets, "lengths": lengths}
    engine = "compiled" if issubclass(recurra.layers()[name], recurra.Recurrence) else "parallel"
    compare(draw(lambda: recurra.layer(name, 8), torch.float64, batch, time, **options), engine)
