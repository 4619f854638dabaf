"""Every layer in the registry, on every engine that can run it, in every dtype, keeps every law."""

import pytest
import torch

import recurra
from recurra.testing.laws import LAWS, engines_for

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def cases():
    for name in recurra.layers():
        for engine in engines_for(lambda name=name: recurra.layer(name, 8), torch.float32):
            for dtype in DTYPES:
                for law in LAWS:
                    marks = () if quick(name, engine, dtype, law) else (pytest.mark.slow,)
                    id = f"{name}-{engine}-{str(dtype)[6:]}-{law}"
                    yield pytest.param(name, engine, dtype, law, id=id, marks=marks)


LONG = {("atlas", "newton")}
"""Layers and engines of which one law takes many seconds."""


def quick(name, engine, dtype, law):
    """What every run holds; `make slow` holds the rest. Most laws do not depend on the dtype, some on little else."""
    if (name, engine) in LONG:
        return dtype is torch.float64 and law in ("same_as_reference", "nan_stays_where_it_is")
    if law == "is_a_module":
        return dtype is torch.float32
    if law in ("same_as_reference", "rounds_like_the_reference", "nan_stays_where_it_is"):
        return True
    if engine == "compiled" and law == "cut_anywhere":
        return True
    return dtype is torch.float64 or (dtype is torch.float32 and engine in ("loop", "compiled"))


@pytest.mark.parametrize(("name", "engine", "dtype", "law"), list(cases()))
def test_law(name, engine, dtype, law):
    LAWS[law](lambda: recurra.layer(name, 8), engine, dtype)
