"""Every layer in the registry, on every engine that can run it, in every dtype, keeps every law."""

from functools import lru_cache, partial

import pytest
import torch

import recurra
from recurra.testing.cases import draw
from recurra.testing.laws import LAWS, engines_for

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


@lru_cache(16)
def kept(name, dtype):
    """A layer that the laws share, so that it is traced and planned once."""
    return recurra.layer(name, 8).to(dtype)


def cases():
    for name in recurra.layers():
        able = engines_for(partial(recurra.layer, name, 8), torch.float32)
        # What is compiled can be replayed as well, if that is asked for.
        for engine in [*able, *["replay"] * ("compiled" in able)]:
            for dtype in DTYPES:
                for law in (law for law in LAWS.values() if law.applies(engine, dtype)):
                    marks = () if quick(name, engine, dtype, law) else (pytest.mark.slow,)
                    id = f"{name}-{engine}-{str(dtype)[6:]}-{law.name}"
                    yield pytest.param(name, engine, dtype, law, id=id, marks=marks)


LONG = {
    (name, "newton")
    for name in (
        "atlas", "hyper-lstm", "stack-rnn", "tape-rnn", "ntm", "dnc", "mamba3", "ode-rnn", "log-linear-mamba2",
        "log-linear-gated-delta-net",
    )
}  # fmt: skip
"""Layers and engines of which one law takes many seconds."""

FIRST = {recurra.about(name).family: name for name in reversed([*recurra.layers()])}
"""One layer of each family."""
QUICK = {"compiled": torch.float32}
"""The dtype that every run holds an engine in: what users run; float64 where none is named, as gradients are told from
differences only there."""


def quick(name, engine, dtype, law):
    """What every run holds: one dtype per engine; `make slow` holds the rest."""
    if (name, engine) in LONG:
        return dtype is torch.float64 and law.name in ("same_as_reference", "nan_stays_where_it_is")
    if engine == "replay":
        return dtype is torch.float64 and law.name == "same_as_reference"
    if law.name == "is_traceable":
        # How torch.export takes a layer hangs on its contract, and costs seconds for each.
        return name in FIRST.values() and dtype is torch.float64
    if law.name == "long_sequences":
        # What is prepared for all time steps at once is the same on every engine.
        return engine in ("compiled", "parallel") and name != "atlas"
    return dtype is QUICK.get(engine, torch.float64)


@pytest.mark.parametrize(("name", "engine", "dtype", "law"), list(cases()))
def test_law(name, engine, dtype, law):
    law(partial(recurra.layer, name, 8) if law.fresh else partial(kept, name, dtype), engine, dtype)


@pytest.mark.parametrize("name", recurra.layers())
def test_nan_comes_out_where_it_went_in(name):
    case = draw(partial(kept, name, torch.float64), torch.float64, time=4)
    case.x[1, 2] = float("nan")
    came = case.run("auto")[0][1, 2].isnan().any()
    assert came != bool(getattr(case.layer, "withheld", {})), "a layer says what it does not let out"
