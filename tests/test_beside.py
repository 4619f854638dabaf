"""Inputs beside x, outputs beside y, time elapsed between steps, packed sequences."""

import copy
import itertools
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, unpack_sequence

import recurra
from recurra import EngineRefused, InputError, Lane, Recurrence, registry
from recurra.attention.causal import CausalAttention
from recurra.engines.choose import observe
from recurra.models.backbone import Backbone
from recurra.models.stacked import Stacked
from recurra.problem import StepInput
from recurra.testing.laws import LAWS, check_recurrence

HOLDING = ("s4d", "s5", "dss", "lmu", "ema", "conv-s5")
"""Layers whose steps are exact for an x that stands still."""
EXPLICIT = {
    "antisymmetric-rnn": {}, "lipschitz-rnn": {}, "co-rnn": {}, "unicornn": {}, "lem": {"dt": 0.5}, "linoss": {},
    "ltc": {}, "mamba": {"kernel": 1}, "falcon-mamba": {"kernel": 1}, "mamba2": {"kernel": 1},
    "s4": {}, "lssl": {},
}  # fmt: skip
"""Layers whose steps tend to a differential equation as they become short, with options for an x that stands still."""
TIMED = [name for name in recurra.layers() if "elapsed" in recurra.layer(name, 8).beside]


class Gated(Recurrence):
    """A mask [B, T, 1] lets the state move, an action [B, T, D] pushes it; beside y it tells the state's energy."""

    lane = Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.weight = nn.Parameter(torch.randn(width, width) * 0.4)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x, *, mask, action=None):
        return {"x": x if action is None else x + action, "mask": mask.to(x.dtype)}

    def step(self, h, x, mask):
        h = h + mask * (torch.tanh(self.weight @ h + x) - h)
        return h, torch.cat([h, (h * h).sum()[None]])

    def outputs(self, y, x):
        return y[..., :-1], {"energy": y[..., -1], "x": x}

    def example(self, batch, time):
        like = self.weight
        return {"mask": torch.rand(batch, time, 1) < 0.6, "action": torch.randn(batch, time, self.width).to(like.dtype)}


class Leaking(Recurrence):
    """A channel with a gain [B, T, D] that is not needed; affine, with a short look back."""

    lane = Lane.CHANNEL

    def __init__(self, width):
        super().__init__(width)
        self.windows = {"before": (width, 1)}

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x, past, *, gain=None):
        return {"x": x + past.lags("before", x)[1], "gain": torch.full_like(x, 0.5) if gain is None else gain}

    def step(self, h, x, gain):
        h = 0.9 * h + gain * x
        return h, h

    def example(self, batch, time):
        return {"gain": torch.randn(batch, time, self.width).double()}


class Biased(CausalAttention):
    """Attention whose values are scaled by a number for each time step."""

    def inputs(self, x, position, past, *, scale):
        read = super().inputs(x, position, past)
        return read | {"v": read["v"] * scale[..., None, None]}


def masks(batch, time):
    return torch.rand(batch, time, 1) < 0.6


@pytest.mark.parametrize(("make", "engines"), [
    (lambda: Gated(3), ["loop", "compiled", "newton"]),
    (lambda: Leaking(3), ["loop", "compiled", "scan", "newton", "replay"]),
    (lambda: Biased(8, heads=2), ["loop", "parallel"]),
])  # fmt: skip
def test_a_layer_with_inputs_beside_x_keeps_the_laws(make, engines):
    check_recurrence(make, engines=engines, dtypes=[torch.float64])


@pytest.mark.parametrize("name", TIMED)
def test_layers_with_a_step_size_keep_the_laws_of_inputs_beside_x(name):
    layer = recurra.layer(name, 8).double()
    x, elapsed = torch.randn(1, 2, 8).double(), torch.rand(1, 2).double() + 0.5
    refusals = layer.refusals(x, elapsed=elapsed)
    assert "change in time" in str(refusals["convolution"]) or layer.refusals(x)["convolution"]
    for engine in (name for name, reason in refusals.items() if reason is None):
        LAWS["beside_x"](lambda: layer, engine, torch.float64)


def test_which_layers_have_a_step_size():
    assert {*HOLDING, *EXPLICIT, "lru", "cfc", "phased-lstm", "ode-rnn", "gru-d"} <= set(TIMED)
    with pytest.raises(InputError, match="GRU was given 'elapsed'; it takes nothing beside x, and has no step"):
        recurra.layer("gru", 4)(torch.randn(1, 2, 4), elapsed=torch.ones(1, 2))


@pytest.mark.parametrize("name", TIMED)
def test_time_that_goes_on_as_usual_changes_nothing(name):
    layer, x = recurra.layer(name, 8).double(), torch.randn(2, 7, 8).double()
    torch.testing.assert_close(layer(x, elapsed=torch.ones(2, 7))[0], layer(x)[0])


def at_rate(layer, x, rate):
    """y at the time steps of x, and the state after them, of x read `rate` times as often in as much time."""
    often = x.repeat_interleave(rate, 1)
    y, state = layer(often, elapsed=torch.full(often.shape[:2], 1 / rate))
    return torch.cat([y[:, rate - 1 :: rate].flatten(), *(value.flatten() for value in state.values())])


@pytest.mark.parametrize("name", HOLDING)
def test_half_the_step_at_twice_the_rate(name):
    """What holds still in between is read twice, half as long each time: to the same states."""
    layer, x = recurra.layer(name, 8).double(), torch.randn(2, 6, 8).double()
    torch.testing.assert_close(at_rate(layer, x, 2), at_rate(layer, x, 1))


@pytest.mark.parametrize("name", EXPLICIT)
def test_steps_half_as_long_are_half_as_far_off(name):
    """At twice the rate nearly the same comes out, and what is left of the difference halves with every doubling, or by
    the trapezoidal rule becomes a quarter."""
    layer, x = recurra.layer(name, 8, **EXPLICIT[name]).double(), torch.randn(2, 4, 8).double()
    ratio, first = (0.25, 6) if name in ("s4", "lssl") else (0.5, 5)
    found = [at_rate(layer, x, 2**k) for k in range(first, first + 4)]
    change = [(a - b).abs().max().item() for a, b in itertools.pairwise(found)]
    assert 0 < change[0] < 0.1
    for longer, shorter in itertools.pairwise(change):
        assert 0.8 * ratio < shorter / longer < 1.2 * ratio, change


def test_a_gap_is_as_many_steps_without_input():
    layer, x = recurra.layer("lru", 8).double(), torch.randn(1, 5, 8).double()
    elapsed = torch.tensor([[1, 3, 1, 2, 4]])
    places = elapsed.cumsum(1)[0] - 1
    filled = torch.zeros(1, int(places[-1]) + 1, 8).double()
    filled[:, places] = x
    torch.testing.assert_close(layer(x, elapsed=elapsed)[0], layer(filled)[0][:, places])


@pytest.mark.parametrize("name", ["mamba", "falcon-mamba", "mamba2"])
def test_elapsed_multiplies_the_selected_step(name):
    layer, x = recurra.layer(name, 8).double(), torch.randn(1, 5, 8).double()
    elapsed = torch.rand(1, 5).double() + 0.5
    problem, timed = layer.problem(x), layer.problem(x, elapsed=elapsed)
    dt = nn.functional.softplus(problem.inputs["dt"].tensor) * elapsed[..., None]
    by_hand = dict(timed.inputs) | {"dt": StepInput(dt.expm1().log())}  # softplus of it is dt
    by_hand.pop("elapsed")
    states = tuple(problem.state.values())
    for t in range(5):
        for lane in range(problem.lanes):

            def at(entry, t=t, lane=lane):
                tensor = entry.tensor[0, t] if entry.per_time else entry.tensor
                return tensor[lane] if entry.per_lane else tensor

            own = tuple(state[0, lane] + 0.3 for state in states)
            got = layer.step(*own, **{n: at(e) for n, e in timed.inputs.items()})
            torch.testing.assert_close(got, layer.step(*own, **{n: at(e) for n, e in by_hand.items()}))


@pytest.mark.parametrize(
    ("elapsed", "said"),
    [
        (torch.tensor([[1.0, 1], [1, 0]]), "elapsed\\[1, 1\\] is 0.0; expected positive, finite numbers"),
        (torch.tensor([[1.0, -2], [1, 1]]), "elapsed\\[0, 1\\] is -2.0; expected positive"),
        (torch.tensor([[1.0, 1], [torch.inf, 1]]), "elapsed\\[1, 0\\] is inf; expected positive"),
        (torch.tensor([[torch.nan, 1], [1, 1]]), "elapsed\\[0, 0\\] is nan; expected positive"),
        (torch.ones(2, 2, 1), "elapsed is \\[2, 2, 1\\] float32 on cpu; expected \\[2, 2\\], as x has"),
        (torch.ones(2, 3), "elapsed is \\[2, 3\\] float32 on cpu; expected \\[2, 2\\]"),
        (torch.ones(2, 2) > 0, "elapsed is \\[2, 2\\] bool on cpu; expected numbers"),
        (1.0, "elapsed is a float; expected \\[2, 2\\]"),
    ],
)
def test_time_that_does_not_go_on(elapsed, said):
    x = torch.randn(2, 2, 8)
    for layer in (recurra.layer("s5", 8), recurra.layer("s5", 8, num_layers=2), Backbone(8, "gru+s5")):
        with pytest.raises(InputError, match=said):
            layer(x, elapsed=elapsed)
    with pytest.raises(InputError, match=said):
        recurra.LanguageModel(16, 8, "s5+gru")(torch.randint(16, (2, 2)), elapsed=elapsed)


def test_padding_may_hold_any_time():
    layer, x = recurra.layer("s5", 8, num_layers=2), torch.randn(2, 4, 8)
    elapsed, lengths = torch.rand(2, 4) + 0.5, torch.tensor([2, 4])
    expected = layer(x, elapsed=elapsed, lengths=lengths)[0]
    elapsed[0, 2:] = torch.tensor([0, torch.nan])
    assert torch.equal(layer(x, elapsed=elapsed, lengths=lengths)[0], expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Gated was not given 'mask', which it needs beside x: call it with mask="),
        ({"mask": None}, "Gated was not given 'mask'"),
        ({"mask": True, "maks": 1}, "Gated was given 'maks'; did you mean 'mask'\\? beside x it takes mask, action"),
        ({"mask": True, "reset": 1}, "Gated was given 'reset'; did you mean 'resets'\\?"),
        ({"mask": True}, "mask is a bool; expected \\[2, 4, ...\\], as x has"),
        ({"mask": torch.ones(2, 3, 1)}, "mask is \\[2, 3, 1\\] float32 on cpu; expected \\[2, 4, ...\\]"),
        ({"mask": torch.ones(2, 4, 1, device="meta")}, "mask is on meta, x on cpu: move one of them"),
    ],
)
def test_what_does_not_fit_is_named(given, said):
    with pytest.raises(InputError, match=said):
        Gated(3)(torch.randn(2, 4, 3), **given)


def test_names_that_every_call_has_are_refused():
    with pytest.raises(InputError, match=r"Wrong.inputs takes 'lengths', an argument that every call has"):

        class Wrong(Gated):
            def inputs(self, x, *, lengths):
                return {"x": x, "mask": lengths}


ROW = torch.ones(1, 2, 3)


@pytest.mark.parametrize("wrong", [
    (1, 2, 3), {"energy": 1}, "y", (ROW, torch.ones(1)), (ROW, {"energy": torch.ones(1)}), (ROW, {"energy": 1.0}),
    (ROW, {3: torch.ones(1, 2)}),
])  # fmt: skip
def test_outputs_that_are_none(wrong):
    layer = Gated(3)
    layer.outputs = lambda y, x: wrong
    with pytest.raises(InputError, match=r"Gated\.outputs returned .*; expected"):
        layer(torch.randn(1, 2, 3), mask=masks(1, 2))


def test_auxiliary_outputs_carry_gradients():
    layer, x = Gated(3), torch.randn(2, 4, 3)
    y, _, more = layer(x, mask=torch.ones(2, 4, 1, dtype=torch.bool), aux=True)  # a state moves twice at least
    assert set(more) == {"energy", "x"}
    torch.testing.assert_close(more["energy"], (y * y).sum(-1))
    more["energy"].sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    assert len(recurra.layer("gru", 3)(x, aux=True)[2]) == 0


def test_in_depth_and_in_both_directions():
    stack = Stacked(lambda width: Gated(3) if width == 3 else recurra.layer("s5", width), 3, 2, True)
    x, mask, elapsed = torch.randn(2, 5, 3), masks(2, 5), torch.rand(2, 5) + 0.5
    lengths = torch.tensor([3, 5])
    y, _, more = stack(x, mask=mask, elapsed=elapsed, lengths=lengths, aux=True)
    assert set(more) == {"0.energy", "0.x", "0.reverse.energy", "0.reverse.x"}
    torch.testing.assert_close(more["0.reverse.x"], torch.where((torch.arange(5) < lengths[:, None])[..., None], x, 0))
    (ahead, back), (second, second_back) = stack.layers
    row = [t[:1, :3] for t in (x, mask, elapsed)]
    turned = [t.flip(1) for t in row]
    low = torch.cat([ahead(row[0], mask=row[1])[0], back(turned[0], mask=turned[1])[0].flip(1)], -1)
    high = [second(low, elapsed=row[2])[0], second_back(low.flip(1), elapsed=turned[2])[0].flip(1)]
    torch.testing.assert_close(y[:1, :3], torch.cat(high, -1))


def test_models_pass_them_on_and_stream_them(monkeypatch):
    monkeypatch.setattr(registry, "OWN", {})
    model = Backbone(4, f"{__name__}:Gated+s5+gru").eval()
    x, mask, elapsed = torch.randn(2, 5, 4), masks(2, 5), torch.rand(2, 5) + 0.5
    assert model.beside == {"mask": True, "action": False, "elapsed": False}
    y, end, more = model(x, mask=mask, elapsed=elapsed, aux=True)
    assert set(more) == {"blocks.0.energy", "blocks.0.x"}
    state, steps = None, []
    with torch.no_grad():
        for t in range(5):
            y_t, state = model.advance(x[:, t], state, mask=mask[:, t], elapsed=elapsed[:, t])
            steps.append(y_t)
    torch.testing.assert_close(torch.stack(steps, 1), y)
    for name, value in end.items():
        torch.testing.assert_close(state[name], value)
    with pytest.raises(InputError, match="this backbone was not given 'mask'"):
        model(x)
    with torch.no_grad(), pytest.raises(InputError, match="was not given 'mask'"):
        model.advance(x[:, 0], state)
    with torch.no_grad(), pytest.raises(InputError, match="Gated was not given 'mask'"):
        Gated(4).advance(x[:1, 0], Gated(4).initial_state(1))
    timed = recurra.LanguageModel(16, 8, "gru+mamba").eval()
    token, state = torch.tensor([3, 4]), timed.initial_state(2)
    logits, _ = timed.advance(token, state, elapsed=elapsed[:, 0])
    assert torch.equal(logits, timed(token[:, None], state, elapsed=elapsed[:, :1])[0][:, 0])


PACKED = {
    "gru": partial(recurra.layer, "gru", 3),
    "mamba": partial(recurra.layer, "mamba", 3),
    "attention": partial(recurra.layer, "attention", 3, heads=1),
    "both ways": partial(recurra.layer, "lstm", 3, num_layers=2, bidirectional=True),
    "backbone": partial(Backbone, 3, "gru"),
    "with a mask": partial(Gated, 3),
}


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("make", PACKED.values(), ids=PACKED)
def test_packed_sequences(make, ordered):
    layer = make().eval()
    lengths = [5, 3, 1] if ordered else [2, 5, 1, 4]
    rows = [torch.randn(n, 3, requires_grad=True) for n in lengths]
    given = [{"mask": torch.ones(1, n, 1) > 0} if isinstance(layer, Gated) else {} for n in lengths]
    packed = {name: pack_sequence([one[name][0] for one in given], enforce_sorted=ordered) for name in given[0]}
    y, state = layer(pack_sequence(rows, enforce_sorted=ordered), **packed)
    for i, (row, own, got) in enumerate(zip(rows, given, unpack_sequence(y), strict=True)):
        alone, last = layer(row[None], **own)
        torch.testing.assert_close(got, alone[0])
        for name, value in last.items():
            both = (state[name][i : i + 1], value)
            if value.dim() > 2 and both[0].shape != value.shape:  # what grows is as long as that of the longest
                both = (both[0][:, :, -value.shape[2] :], value)
            torch.testing.assert_close(*both)
    again = pack_padded_sequence(torch.randn(len(rows), 5, 3), torch.tensor(lengths), True, ordered)
    assert torch.equal(y.batch_sizes, again.batch_sizes)
    y.data.sum().backward()
    assert all(row.grad.abs().sum() > 0 for row in rows)
    with pytest.raises(InputError, match="lengths was given with a PackedSequence, which has its own"):
        layer(again, lengths=torch.tensor(lengths), **packed)


def test_only_the_output():
    layer = recurra.layer("gru", 4)
    x = torch.randn(2, 3, 4)
    model = nn.Sequential(recurra.OnlyOutput(layer), nn.Linear(4, 1))
    assert torch.equal(model(x), model[1](layer(x)[0]))
    lengths = torch.tensor([1, 3])
    assert torch.equal(recurra.OnlyOutput(layer)(x, lengths=lengths), layer(x, lengths=lengths)[0])
    with pytest.raises(InputError, match="layer is 'gru'; expected Module"):
        recurra.OnlyOutput("gru")


def test_in_every_context():
    """Under torch.compile, torch.export, vmap, grad of torch.func, pickled: with what is given beside x."""
    layer = Gated(3)
    x, mask = torch.randn(2, 4, 3), masks(2, 4)
    y, _ = layer(x, mask=mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's tracer warns of what it reads itself
        torch.testing.assert_close(torch.compile(layer, backend="aot_eager")(x, mask=mask)[0], y)
    torch._dynamo.reset()
    exported = torch.export.export(layer, (x,), {"mask": mask}).module()
    torch.testing.assert_close(exported(x, mask=mask)[0], y)
    many = torch.func.vmap(lambda x, mask: layer(x, mask=mask)[0])(x[:, None], mask[:, None])
    torch.testing.assert_close(many[:, 0], y)
    slope = torch.func.grad(lambda action: layer(x, mask=mask, action=action)[0].sum())(torch.zeros_like(x))
    action = torch.zeros_like(x, requires_grad=True)
    layer(x, mask=mask, action=action)[0].sum().backward()
    torch.testing.assert_close(slope, action.grad)
    assert torch.equal(copy.deepcopy(layer)(x, mask=mask)[0], y)
    timed, elapsed = recurra.layer("s5", 4), torch.rand(2, 3) + 0.5
    x = torch.randn(2, 3, 4)
    many = torch.func.vmap(lambda x, elapsed: timed(x, elapsed=elapsed)[0])(x[:, None], elapsed[:, None])
    torch.testing.assert_close(many[:, 0], timed(x, elapsed=elapsed)[0])
    with pytest.raises(InputError, match=r"elapsed.* is -"):
        torch.func.vmap(lambda x, elapsed: timed(x, elapsed=elapsed)[0])(x[:, None], -elapsed[:, None])
    exported = torch.export.export(timed, (x,), {"elapsed": elapsed}).module()
    torch.testing.assert_close(exported(x, elapsed=elapsed)[0], timed(x, elapsed=elapsed)[0])


def test_the_engine_that_was_named_runs_or_says_why():
    x, elapsed = torch.randn(1, 600, 8), torch.rand(1, 600) + 0.5
    layer = recurra.layer("s4d", 8)
    with observe() as seen:
        layer(x, engine="convolution")
    assert seen == ["convolution"]
    with pytest.raises(EngineRefused, match="convolution"):
        layer(x, elapsed=elapsed, engine="convolution")
    assert "changing in time" in str(layer.explain(x, elapsed=elapsed)["structure"])
