"""The recurrences of examples/ are compiled, keep the laws, and are what a loop by hand gives."""

import copy
import importlib
from pathlib import Path

import pytest
import torch

from benchmarks.own import RECURRENCES, example_of
from benchmarks.own.examples import RECURRENCES as EXAMPLES
from recurra import Recurrence, observe
from recurra.testing.laws import LAWS, check_recurrence
from recurra.testing.tolerances import assert_close

FILES = sorted(path.stem for path in (Path(__file__).parent.parent / "examples").glob("*.py"))
QUICK = ("same_as_reference", "cut_anywhere", "single_steps", "packed_and_padded")
EXCEPT = {"spiking": {"gradients_are_derivatives": "a spike has no derivative; another one is passed"}}

# On the reference loop, of nn.GRUCell.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


def recurrence_of(file):
    module = importlib.import_module(f"examples.{file}")
    (kind,) = (v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__
               and issubclass(v, Recurrence))  # fmt: skip
    return kind


@pytest.mark.parametrize("file", FILES)
def test_an_example_is_compiled_and_keeps_the_laws(file):
    layer = recurrence_of(file)(4)
    with observe() as engines:
        layer(torch.randn(2, 3, 4))
    assert engines == ["compiled"]
    for law in QUICK:
        LAWS[law](lambda: layer, "compiled", torch.float64)


def test_spikes_are_the_same_in_any_type_where_no_potential_lies_on_the_threshold():
    """In float32, compiled, whole and step by step, what the reference loop has in float64."""
    layer, x = recurrence_of("spiking")(4), torch.randn(64, 20, 4)
    wide = copy.deepcopy(layer).double()
    state, potentials = wide.initial_state(64), []
    with torch.no_grad():
        for x_t in x.double().unbind(1):
            _, state = wide.advance(x_t, state)
            potentials.append(state["u"])
    clear = ((torch.stack(potentials) - 1).abs() > 1e-3).all(0).all(-1)
    x = x[clear]
    assert len(x) > 16
    found, expected = layer(x, engine="compiled")[0], wide(x.double(), engine="loop")[0]
    assert expected.unique().tolist() == [0, 1]
    assert torch.equal(found.double(), expected)
    state = layer.initial_state(len(x))
    with torch.no_grad():
        for x_t, spikes in zip(x.unbind(1), found.unbind(1), strict=True):
            y, state = layer.advance(x_t, state)
            assert torch.equal(y, spikes)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_an_example_keeps_every_law(file):
    kind = recurrence_of(file)
    check_recurrence(lambda: kind(4), except_for=EXCEPT.get(file))


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.title)
def test_an_example_is_the_loop_by_hand(kind):
    holds(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", set(RECURRENCES) - set(EXAMPLES), ids=lambda kind: kind.title)
def test_what_is_measured_is_the_loop_by_hand(kind):
    holds(kind)


def holds(kind):
    """Value and every gradient of a compiled layer, and of its loop in plain PyTorch."""
    layer = kind(16).double()
    x = example_of(kind, torch.randn(3, 7, 16, dtype=torch.float64))
    assert layer.refusals(x)["compiled"] is None
    wanted = {"x": x, **dict(layer.named_parameters())}
    found = {}
    for how, y in (("compiled", layer(x)[0]), ("by hand", layer.by_hand(x))):
        loss = (y * torch.cos(torch.arange(y.numel())).view(y.shape)).sum()
        grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True)
        found[how] = {"y": y.detach()} | {f"gradient of {n}": g for n, g in zip(wanted, grads, strict=True)}
    for name, value in found["by hand"].items():
        assert_close(name, found["compiled"][name], value, torch.float64)
