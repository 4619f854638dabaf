"""Laws of objects: a layer is a module like any other."""

from __future__ import annotations

import copy
import io
import sys
import warnings
from dataclasses import replace
from operator import attrgetter

import torch
from torch import nn

from recurra.testing.cases import Case, Make, draw
from recurra.testing.one_lane import one_lane
from recurra.testing.tolerances import assert_close


def is_a_module(make: Make, engine: str, dtype: torch.dtype) -> None:
    """9a. Survives state_dict, deepcopy, and pickle if its class can be found by name."""
    case = draw(make, dtype, batch=2, time=3)
    y, _ = case.run(engine)
    fresh = make().to(dtype)
    fresh.load_state_dict(case.layer.state_dict())
    twins = {"state_dict": fresh, "deepcopy": copy.deepcopy(case.layer)}
    if all(_has_a_name(type(module)) for module in case.layer.modules()):
        buffer = io.BytesIO()
        torch.save(case.layer, buffer)
        buffer.seek(0)
        twins["pickle"] = torch.load(buffer, weights_only=False)
    for how, twin in twins.items():
        assert_close(f"y after {how}", replace(case, layer=twin).run(engine)[0], y, dtype)


def _has_a_name(kind: type[nn.Module]) -> bool:
    """Whether pickle, which writes down names, can find a class; those inside functions have none."""
    try:
        return attrgetter(kind.__qualname__)(sys.modules[kind.__module__]) is kind
    except (KeyError, AttributeError):
        return False


def is_traceable(make: Make, engine: str, dtype: torch.dtype) -> None:
    """9b. Under torch.compile it gives what it gives, and torch.export takes its step."""
    case = draw(make, dtype, batch=2, time=3)
    y, _ = case.run(engine)
    with warnings.catch_warnings():
        # PyTorch's tracers read .grad of what they trace, and warn of it themselves.
        warnings.simplefilter("ignore")
        try:
            compiled = torch.compile(case.layer, backend="aot_eager")
            for way in (engine, "auto"):
                assert_close(
                    f"y on engine {way!r} under torch.compile", compiled(case.x, engine=way, **case.beside)[0], y, dtype
                )
        finally:
            torch._dynamo.reset()
        _export_step(case)


def _export_step(case: Case) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    module, example = one_lane(case)
    expected = module(*example)
    # Traced first: torch.export by itself loses values inside torch.func.grad, which a step may use.
    got = torch.export.export(make_fx(module)(*example), example).module()(*example)
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert_close(f"value {i} of the exported step", a, b)
