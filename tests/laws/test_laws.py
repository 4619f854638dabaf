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
                # Being a module has nothing to do with rounding.
                for law in (law for law in LAWS if law != "is_a_module" or dtype is torch.float32):
                    yield pytest.param(name, engine, dtype, law, id=f"{name}-{engine}-{str(dtype)[6:]}-{law}")


@pytest.mark.parametrize(("name", "engine", "dtype", "law"), list(cases()))
def test_law(name, engine, dtype, law):
    LAWS[law](lambda: recurra.layer(name, 8), engine, dtype)
