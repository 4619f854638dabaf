"""Random numbers are drawn in `inputs`: fresh ones at every call, the same on every engine for a seed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recurra import EngineRefused, Lane, Recurrence
from recurra.testing.tolerances import assert_close

ENGINES = ("loop", "compiled", "replay", "auto")


class Zoneout(Recurrence):
    """Zoneout of the state (Krueger et al., 2016), and dropout of the output; in a GRU cell of PyTorch's."""

    lane, rate = Lane.LAYER, 0.3

    def __init__(self, width):
        super().__init__(width)
        self.cell = nn.GRUCell(width, width)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {
            "x": x,
            "keep": torch.rand_like(x) < self.rate,
            "drop": F.dropout(torch.ones_like(x), self.rate, self.training),
        }

    def step(self, h, x, keep, drop):
        new = self.cell(x, h)
        h = torch.where(keep, h, new) if self.training else torch.lerp(new, h, self.rate)
        return h, h * drop


class StochasticGate(Recurrence):
    """A gate that is open with the probability that it computes; its gradient is the probability's."""

    lane = Lane.CHANNEL

    def __init__(self, width):
        super().__init__(width)
        self.to_gate = nn.Linear(width, width)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"gate": self.to_gate(x), "x": x, "u": torch.rand_like(x)}

    def step(self, h, gate, x, u):
        p = torch.sigmoid(gate + h)
        z = p + ((u < p).to(p.dtype) - p).detach()
        h = h + z * (torch.tanh(x) - h)
        return h, h


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [Zoneout, StochasticGate])
def test_one_seed_is_the_same_numbers_on_every_engine(kind, training):
    layer = kind(4).double().train(training)
    x = torch.randn(3, 9, 4).double().requires_grad_()
    found = {}
    for engine in ENGINES:
        torch.manual_seed(5)
        y, state = layer(x, engine=engine)
        grads = torch.autograd.grad(y.sin().sum() + state["h"].sum(), [x, *layer.parameters()])
        found[engine] = (y, state["h"], *grads)
        for got, expected in zip(found[engine], found["loop"], strict=True):
            assert_close(engine, got, expected)
    another = layer(x, engine="auto")[0]
    assert torch.equal(another, found["auto"][0]) == (kind is Zoneout and not training)


def test_every_call_draws_its_own():
    layer, x = Zoneout(4), torch.randn(1, 3, 4)
    with torch.no_grad():
        torch.manual_seed(0)
        ys, state = [], None
        for t in range(3):
            y, state = layer.advance(x[:, t], state)
            ys.append(y)
        torch.manual_seed(0)
        again, _ = layer.advance(x[:, 0])
        different, _ = layer.advance(x[:, 0])
    assert torch.equal(again, ys[0])
    assert not torch.equal(again, different)


class DropsInStep(Recurrence):
    lane = Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.encoder = nn.TransformerEncoderLayer(width, 2, 8, 0.3)
        self.drop = nn.Dropout(0.3)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        h = torch.tanh(self.drop(h) + self.encoder(torch.stack([h, x]))[1])
        return h, F.dropout(h, 0.5, self.training)


def test_dropout_in_a_step_is_the_identity_while_evaluating_and_refused_while_training():
    layer, x = DropsInStep(4), torch.randn(2, 3, 4)
    for engine in ENGINES:
        with pytest.raises(EngineRefused, match=rf"{__file__}:\d+: draw them in inputs.*torch\.rand_like\(x\)"):
            layer(x, engine=engine)
    layer.eval()
    for engine in ENGINES[1:]:
        assert_close(engine, layer(x, engine=engine)[0], layer(x, engine="loop")[0])
    assert layer.refusals(x)["compiled"] is None
