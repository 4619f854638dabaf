"""Whatever is done to a module between two single steps, the next one gives what the reference loop gives: layers of
the library, of the user's own, and models of either are read by one idea."""

import copy
import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import recurra
from recurra import Lane, Recurrence
from recurra.engines.stepping import single
from recurra.testing.tolerances import assert_close

SHARPNESS = {"of": 1.0}


def helper(x):
    return torch.tanh(SHARPNESS["of"] * x)


class Own(Recurrence):
    """Reads in every way there is: parts, lists, objects, attributes, globals, closures, a window."""

    lane = Lane.LAYER
    slope = 1.0

    def __init__(self, width):
        super().__init__(width)
        self.to_gate, self.U = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.register_buffer("offset", torch.randn(width))
        self.many, self.config = [torch.randn(width)], SimpleNamespace(floor=0.1, weight=torch.randn(width))
        self.act, self.taps, self.scale = nn.LeakyReLU(0.2), nn.Parameter(torch.randn(width, 3)), 1.0
        self.windows = {"x": (width, 2)}

    def start(self):
        return {"h": torch.zeros(self.width), "n": torch.zeros(())}

    def inputs(self, x, past):
        x = past.convolve("x", x, self.taps)
        return {"gate": self.act(self.to_gate(x) - 3) + self.offset, "x": self.scale * x * self.many[0]}

    def step(self, h, n, gate, x):
        z = torch.sigmoid(gate + self.config.floor)
        h = (1 - z) * h + z * helper(x + self.U(h) + self.slope * self.config.weight)
        return (h, n + 1), h

    def outputs(self, y, x):
        return 2 * y.flatten(2) + x if self.training else y.flatten(2) - x


class Channels(Own):
    lane = Lane.CHANNEL

    def start(self):
        return {"h": torch.zeros(self.width), "n": torch.zeros(self.width)}

    def step(self, h, n, gate, x):
        h = h + torch.sigmoid(gate) * (self.slope * helper(self.config.floor + x) - h)
        return (h, n + 1), h


class Heads(Channels):
    lane = Lane.HEAD

    def start(self):
        return {"S": torch.zeros(2, self.width // 2, 2), "n": torch.zeros(2)}

    def inputs(self, x, past):
        return {name: value.unflatten(-1, (2, -1)) for name, value in super().inputs(x, past).items()}

    def step(self, S, n, gate, x):
        S = self.slope * torch.sigmoid(gate)[:, None] * S + torch.outer(helper(x + self.config.floor), x[:2])
        return (S, n + 1), S.sum(-1)


def a_model(recurrence=None):
    model = recurra.LanguageModel(40, 8, "min-gru+gru")
    if recurrence is not None:
        model.blocks[0].recurrence = recurrence
    return model


MODULES = {
    "layer": lambda: recurra.layer("min-gru", 8), "own": lambda: Own(8), "channels": lambda: Channels(8),
    "heads": lambda: Heads(8), "model": a_model, "model of own": lambda: a_model(Own(8)),
}  # fmt: skip


def stepped(module, state, engine):
    """A time step of a layer or of a model, and the state after it."""
    with torch.no_grad():
        if isinstance(module, recurra.LanguageModel):
            if engine == "auto":
                return module.advance(torch.tensor([3]), state)
            y, state = module(torch.tensor([[3]]), state, engine=engine)
            return y[:, 0], state
        like = next(module.parameters())
        x = torch.linspace(-1, 1, 8, dtype=like.dtype)[None]
        return module.advance(x, state, engine=engine)


def halved(value):
    with torch.no_grad():
        value.mul_(0.5)


def swap_the_act(layer):
    layer.act = nn.SiLU()


def set_the_slope_of_the_act(layer):
    layer.act.negative_slope = 0.9


class Half(nn.Module):
    def forward(self, x):
        return 0.5 * x


class Doubled(torch.Tensor):
    """A tensor that computes otherwise."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        return 2 * result.as_subclass(torch.Tensor) if func is nn.functional.linear else result


def put_a_subclass(layer):
    layer.to_gate.weight = nn.Parameter(layer.to_gate.weight.detach().as_subclass(Doubled))


CHANGES = {
    "in place": lambda layer: halved(layer.to_gate.weight),
    "by data": lambda layer: setattr(layer.to_gate.weight, "data", torch.randn(8, 8)),
    "by strides": lambda layer: setattr(layer.to_gate.weight, "data", layer.to_gate.weight.data.t()),
    "replaced": lambda layer: setattr(layer.to_gate, "weight", nn.Parameter(torch.randn(8, 8))),
    "tied": lambda layer: setattr(layer.to_gate, "weight", nn.Parameter(layer.to_gate.bias.data.expand(8, 8).clone())),
    "no bias": lambda layer: setattr(layer.to_gate, "bias", None),
    "parametrised": lambda layer: parametrize.register_parametrization(layer.to_gate, "weight", Half()),
    "a part": lambda layer: setattr(layer, "to_gate", nn.Linear(8, 8)),
    "a sequence for a part": lambda layer: setattr(layer, "to_gate", nn.Sequential(layer.to_gate, nn.Softplus())),
    "a forward": lambda layer: setattr(layer.to_gate, "forward", lambda x: torch.sin(x)),
    "a hook": lambda layer: layer.to_gate.register_forward_hook(lambda *args: 2 * args[-1]),
    "a subclass": put_a_subclass,
    "loaded": lambda layer: layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}),
    "a pruned weight": lambda layer: prune.random_unstructured(layer.to_gate, "weight", 0.5),
}  # fmt: skip
OF_OWN = {
    "a buffer": lambda layer: setattr(layer, "offset", torch.randn(8)),
    "a buffer in place": lambda layer: halved(layer.offset),
    "training": lambda layer: layer.eval(),
    "scale": lambda layer: setattr(layer, "scale", -2.0),
    "of the class": lambda layer: setattr(type(layer), "slope", 0.3),
    "over the class": lambda layer: setattr(layer, "slope", 3.0),
    "in a list": lambda layer: layer.many.__setitem__(0, torch.randn(8)),
    "in a list, in place": lambda layer: halved(layer.many[0]),
    "in an object": lambda layer: setattr(layer.config, "floor", -1.0),
    "a module": swap_the_act,
    "a setting of a module": set_the_slope_of_the_act,
    "a global": lambda _: SHARPNESS.update(of=3.0),
    "a function": lambda _: globals().update(helper=torch.sin),
    "taps": lambda layer: halved(layer.taps),
    "the step": lambda layer: setattr(layer, "step", lambda h, n, gate, x: ((h, n), h * 0.5)),
}


def recurrence_of(module):
    return module.blocks[0].recurrence if isinstance(module, recurra.LanguageModel) else module


@pytest.mark.parametrize("kind", MODULES)
def test_what_changes_is_seen(kind, monkeypatch):
    monkeypatch.setattr(single, "PATIENCE", 1000)
    changes = CHANGES | OF_OWN if kind not in ("layer", "model") else CHANGES
    if kind == "heads":
        changes = {name: change for name, change in changes.items() if name != "the step"}
    fresh = MODULES[kind]()
    for name, change in changes.items():
        monkeypatch.setitem(SHARPNESS, "of", 1.0)
        monkeypatch.setitem(globals(), "helper", helper)
        monkeypatch.setattr(type(recurrence_of(fresh)), "slope", 1.0, raising=False)
        module = copy.deepcopy(fresh)
        before, state = stepped(module, module.initial_state(1), "auto")
        before, _ = stepped(module, state, "auto")
        assert vars(module)["_step_plan"].plan.chain is not None
        change(recurrence_of(module))
        y, after = stepped(module, state, "auto")
        expected, last = stepped(module, state, "loop")
        assert (expected - before).abs().max() > 1e-5, name
        assert_close(name, y, expected)
        for entry, value in last.items():
            assert_close(f"{entry} after {name}", after[entry], value)


def test_types_and_contexts_are_seen():
    layer = Own(8)
    for change in (layer.double, layer.float, layer.bfloat16, layer.float):
        change()
        state = layer.initial_state(1)
        y, after = stepped(layer, state, "auto")
        assert vars(layer)["_step_plan"].plan.chain is not None
        assert_close("y", y, stepped(layer, state, "loop")[0])
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(recurra.InputError, match="x is"), torch.no_grad():
            layer.advance(torch.ones(1, 8, dtype=dtype), state)
    plan, x = vars(layer)["_step_plan"].plan, torch.ones(1, 8)
    for context, dtype in ((torch.autocast("cpu"), torch.bfloat16), (torch.enable_grad(), torch.float32)):
        with torch.no_grad(), context:
            expected = layer.advance(x, after, engine="loop")[0]
            assert_close("y", layer.advance(x, after)[0], expected, dtype)
            assert layer.advance(x, after)[0].requires_grad == expected.requires_grad
    assert vars(layer)["_step_plan"].plan is plan


class Counting(Recurrence):
    """Does more than compute, as `how` says."""

    lane = Lane.CHANNEL
    seen: list = []

    def __init__(self, width, how):
        super().__init__(width)
        self.how, self.count = how, 0

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x * getattr(self, self.how)()}

    def step(self, h, x):
        return h + x, h + x

    def on_itself(self):
        self.count += 1
        return self.count

    def in_a_list(self):
        self.seen.append(1)
        return len(self.seen)

    def by_chance(self):
        return random.random()

    def on_paper(self):
        print("called")
        return 1.0

    def on_a_tensor(self):
        self.last = torch.ones(())
        return 1.0


@pytest.mark.parametrize("how", ["on_itself", "in_a_list", "by_chance", "on_paper", "on_a_tensor"])
def test_what_does_more_than_compute_is_called_each_time(how, capsys):
    layer, x = Counting(4, how), torch.ones(1, 4)
    state = layer.initial_state(1)
    with torch.no_grad():
        results = [layer.advance(x, state)[0] for _ in range(5)]
    assert vars(layer)["_step_plan"].plan.chain is None
    if how in ("on_itself", "in_a_list", "by_chance"):
        assert len({float(y[0, 0]) for y in results}) == 5
    assert capsys.readouterr().out == "called\n" * 5 * (how == "on_paper")


@torch.no_grad()
def test_a_module_that_is_another_at_every_step_is_not_traced_at_every_step(monkeypatch):
    layer, made, x = Own(4), [], torch.ones(1, 4)
    monkeypatch.setattr(single, "_made", lambda *args: made.append(1))
    state = layer.initial_state(1)
    for i in range(100):
        layer.scale = float(i)
        layer.advance(x, state)
    assert 5 < len(made) < 20
