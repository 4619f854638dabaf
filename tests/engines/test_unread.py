"""What a step does not read, or reads without a slope, has no gradient on any engine: zero times infinity is NaN."""

import pytest
import torch

from recurra import Lane, Recurrence, constant, shared
from recurra.testing.cases import draw, gradients
from recurra.testing.tolerances import assert_close

ENGINES = ["compiled", "scan", "convolution", "newton"]
KINDS = {
    "at every time step": lambda u: u,
    "shared": lambda u: shared(u[..., 0]),
    "constant": lambda u: constant(u[0, 0]),
    "a vector": lambda u: torch.stack([u, 2 * u], -1),
    "complex": lambda u: torch.complex(u, u),
    "boolean": lambda u: u > 0,
    "boolean, shared": lambda u: shared(u[..., 0] > 0),
}


class Spare(Recurrence):
    """h <- a h + x, beside an input whose gradient, were it zero, would be NaN further up."""

    lane = Lane.CHANNEL

    def __init__(self, kind, step):
        super().__init__(5)
        self.kind, self.function = kind, step
        self.decay = torch.nn.Parameter(torch.rand(5))
        self.unread = torch.nn.Parameter(torch.ones(5))

    def start(self):
        return {"h": torch.zeros(5)}

    def inputs(self, x):
        spare = KINDS[self.kind](self.unread * torch.sqrt(0 * x))
        return {"x": x, "spare": spare, "decay": constant(self.decay)}

    def step(self, h, x, spare, decay):
        h = self.function(decay * h + x, spare)
        return h, h


def held_to_the_loop(layer, engine):
    case = draw(lambda: layer, torch.float64)
    expected, got = gradients(case, "loop"), gradients(case, engine)
    for name, value in expected.items():
        assert value.isfinite().all()
        assert_close(f"{engine}: {name}", got[name], value, torch.float64)
    layer(case.x, engine=engine)[0].sum().backward()
    assert layer.unread.grad is None
    assert layer.decay.grad is not None


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_unread_input(kind, engine):
    held_to_the_loop(Spare(kind, lambda h, spare: h), engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["boolean", "boolean, shared"])
def test_a_decision_between_equals(kind, engine):
    held_to_the_loop(Spare(kind, lambda h, spare: torch.where(spare, h, h)), engine)


@pytest.mark.parametrize("engine", ["compiled", "newton"])
@pytest.mark.parametrize("kind", ["at every time step", "shared", "constant"])
def test_an_input_that_only_decides(kind, engine):
    held_to_the_loop(Spare(kind, lambda h, spare: torch.where(spare > 0, 2 * h, h)), engine)


class Twins(Recurrence):
    """Two states that become the same value, and one that is another's past."""

    lane = Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.weight = torch.nn.Parameter(torch.randn(width, width) / width**0.5)
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def start(self):
        return {name: torch.zeros(self.width) for name in ("h", "k", "past")}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, k, past, x):
        new = torch.tanh(self.weight @ h + self.scale * k - 0.2 * past + x)
        return (new, new, h), new


@pytest.mark.parametrize("engine", ["compiled", "newton"])
@pytest.mark.parametrize("width", [1, 2, 12])
def test_states_that_become_the_same_value(width, engine):
    case = draw(lambda: Twins(width), torch.float64, state=True, resets=True)
    expected, got = gradients(case, "loop"), gradients(case, engine)
    for name, value in expected.items():
        assert_close(f"{engine}: {name}", got[name], value, torch.float64)
