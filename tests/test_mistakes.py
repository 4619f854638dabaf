"""What somebody who writes a first recurrence gets wrong: each is answered in a line or two that say what to do."""

import pytest
import torch
from torch import nn

from recurra import DeltaRule, EngineRefused, InputError, Lane, Recurrence
from recurra.engines import scan


class Cell(Recurrence):
    lane = Lane.LAYER

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        return h + x, h


class NoLane(Recurrence):
    start, inputs, step = Cell.start, Cell.inputs, Cell.step


class ForgotSuper(Cell):
    def __init__(self, width):
        self.width = width


class WithLinear(Cell):
    lane = Lane.CHANNEL

    def __init__(self, width):
        super().__init__(width)
        self.linear = nn.Linear(width, width)

    def step(self, h, x):
        h = torch.tanh(self.linear(h) + x)
        return h, h


class Heads(Recurrence):
    lane = Lane.HEAD

    def start(self):
        return {"S": torch.zeros(2, 2, 2)}

    def inputs(self, x):
        return dict.fromkeys(("q", "k", "v"), x.unflatten(-1, (2, 2)))

    def step(self, S, q, k, v):
        S = S + torch.outer(v, k)
        return S, S @ q


def cell(lane=Lane.LAYER, **methods):
    return type("Mine", (Cell,), {"lane": lane, **methods})(4)


def looking_back(inputs, size=(4, 2), name="before"):
    layer = cell(inputs=inputs)
    layer.windows = {name: size}
    return layer(X)


def merged(combine):
    """A scan by the recurrence's own operation, as devices without a compiled loop run it."""
    return scan.by_elements(cell(Lane.CHANNEL, combine=combine).problem(X))


def chunks(as_delta_rule):
    return type("Mine", (Heads,), {"as_delta_rule": as_delta_rule})(4)(X, engine="chunkwise")


def with_batch(_, h, x):
    h = torch.tanh(torch.cat([h, x], dim=1).sum(1))
    return h, h


def decides(_, h, x):
    return (h + x if h.sum() > 0 else h), h


def unknown(_, h, x):
    return h + torch.special.i0(x), h


def raises_inside(_, x):
    return {"x": len(x) + len(3)}


X = torch.randn(2, 5, 4)
WHERE = __file__

MISTAKES = {
    "no lane": (lambda: NoLane(4)(X), ["NoLane.lane is None", "Lane.CHANNEL, Lane.HEAD or Lane.LAYER"]),
    "no lane, one time step": (lambda: NoLane(4).advance(X[:, 0]), ["NoLane.lane is None", "Lane.LAYER"]),
    "a lane's name": (lambda: cell("channel")(X), ["Mine.lane is 'channel'", "Lane.CHANNEL"]),
    "no super().__init__": (lambda: ForgotSuper(4)(X), ["ForgotSuper.__init__", "super().__init__(width)"]),
    "nor before its problem": (lambda: ForgotSuper(4).problem(X), ["ForgotSuper.__init__", "super().__init__(width)"]),
    "start of a number": (lambda: cell(start=lambda self: {"h": 0.0})(X), ["'h' as a float", "expected a tensor"]),
    "start of nothing": (lambda: cell(start=lambda self: None)(X), ["start() returned a NoneType", "dict of tensors"]),
    "start without names": (lambda: cell(start=lambda self: X[0])(X), ["start() returned [5, 4]", "dict of tensors"]),
    "start of no name": (lambda: cell(start=lambda self: {0: X[0, 0]})(X), ["names a state 0", "a str"]),
    "start without lanes": (
        lambda: cell(Lane.CHANNEL, start=lambda self: {"h": torch.zeros(())})(X),
        ["'h' as []", "[lanes, ...]", "Lane.CHANNEL", "torch.zeros(self.width)", "Lane.LAYER"],
    ),
    "lanes that differ": (
        lambda: cell(Lane.HEAD, start=lambda self: {"h": torch.zeros(2, 2), "c": torch.zeros(3, 2)})(X),
        ["'h' with 2 lanes", "'c' with 3", "[lanes, ...]"],
    ),
    "a step with a batch axis": (
        lambda: cell(step=with_batch)(X),
        ["Dimension out of range", "Mine.step sees one lane of one sequence, without batch", "h [4], x [4]"],
    ),
    "a linear map of a channel": (
        lambda: WithLinear(4)(X),
        ["0D and 2D", "WithLinear.step sees one lane", "h [], x []", "Lane.CHANNEL is one channel", "Lane.LAYER"],
    ),
    "the same on the loop": (lambda: cell(step=with_batch)(X, engine="loop"), ["Mine.step sees one lane", "h [4]"]),
    "a decision": (lambda: cell(step=decides)(X), ["decides by the value", WHERE, "torch.where"]),
    "an operation by its name": (
        lambda: cell(step=unknown)(X, engine="compiled"),
        ["bessel_i0", WHERE, "`return h + torch.special.i0(x), h`"],
    ),
    "x of whole numbers": (lambda: WithLinear(4)(X.long()), ["x is torch.int64", "use x.to(torch.float32)"]),
    "inputs without past": (
        lambda: looking_back(lambda self, x: {"x": x}),
        ["takes (x)", "inputs(self, x, past), since the layer has windows"],
    ),
    "past without windows": (
        lambda: cell(inputs=lambda self, x, past: {"x": x})(X),
        ["takes (x, past)", "inputs(self, x), since the layer has no windows"],
    ),
    "a window of a number": (lambda: looking_back(Cell.inputs, 3), ["windows['before'] is 3", "(channels, steps)"]),
    "a window of no size": (
        lambda: looking_back(Cell.inputs, (4, -1)),
        ["windows['before'] is (4, -1)", "(channels, steps)"],
    ),
    "a window that is a state": (
        lambda: looking_back(lambda self, x, past: {"x": past.lags("h", x)[0]}, name="h"),
        ["names a state 'h'", "no window's name"],
    ),
    "a window not used": (
        lambda: looking_back(lambda self, x, past: {"x": x}),
        ["Mine.inputs does not use window 'before'", "past.lags('before', ...)"],
    ),
    "a window of another name": (
        lambda: looking_back(lambda self, x, past: {"x": past.lags("after", x)[0]}),
        ["past.lags: there is no window 'after'", "['before']"],
    ),
    "a window of another width": (
        lambda: looking_back(lambda self, x, past: {"x": past.mix("before", x[..., :3], torch.zeros(1, 3))[0]}),
        ["past.mix: signal is [2, 5, 3]", "[B, T, 4]", "windows['before']"],
    ),
    "taps of another number": (
        lambda: looking_back(lambda self, x, past: {"x": past.convolve("before", x, torch.zeros(4, 2))}),
        ["past.convolve: weight is [4, 2]", "[4, 3]", "steps / dilation + 1"],
    ),
    "a window of the class": (
        lambda: cell(windows={"before": (4, 2)})(X),
        ["takes (x)", "inputs(self, x, past), since the layer has windows"],
    ),
    "outputs without x": (lambda: cell(outputs=lambda self, y: y)(X), ["takes (y)", "outputs(self, y, x)"]),
    "outputs of nothing": (lambda: cell(outputs=lambda self, y, x: None)(X), ["outputs returned a NoneType", "[2, 5,"]),
    "outputs without time": (
        lambda: cell(outputs=lambda self, y, x: y.sum(1))(X),
        ["outputs returned [2, 4]", "[2, 5"],
    ),
    "outputs for one step": (
        lambda: cell(outputs=lambda self, y, x: None).advance(X[:, 0]),
        ["outputs returned a NoneType", "[2, 1, ...]"],
    ),
    "combine of one": (lambda: merged(lambda self, a: a), ["takes (a)", "combine(self, earlier, later)"]),
    "combine of a tensor": (
        lambda: merged(lambda self, a, b: a[0] + b[0]),
        ["Mine.combine returned []", "a tuple of states (h,)"],
    ),
    "combine of too many": (lambda: merged(lambda self, a, b: a + b), ["Mine.combine returned 2 values", "(h,)"]),
    "combine of another shape": (
        lambda: merged(lambda self, a, b: (a[0].expand(3),)),
        ["Mine.combine returned h as [3]", "it came in as []"],
    ),
    "a delta rule of other arguments": (
        lambda: chunks(lambda self, S, q: DeltaRule(q, q, q, S)),
        ["takes (S, q)", "the arguments of step"],
    ),
    "a delta rule of parts": (
        lambda: chunks(lambda self, S, q, k, v: (q, k, v)),
        ["Mine.as_delta_rule returned a tuple", "a DeltaRule"],
    ),
    "a key of another size": (
        lambda: chunks(lambda self, S, q, k, v: DeltaRule(q, k[..., :1], v, S)),
        ["k is [2, 5, 2, 1]", "[2, T, 2, 2]"],
    ),
    "a strength per key": (
        lambda: chunks(lambda self, S, q, k, v: DeltaRule(q, k, v, S, beta=k)),
        ["beta is [2, 5, 2, 2]", "[2, T, 2]"],
    ),
    "a decay of other lanes": (
        lambda: chunks(lambda self, S, q, k, v: DeltaRule(q, k, v, S, log_decay=-X.abs())),
        ["log_decay is [2, 5, 4]", "[2, T, 2]"],
    ),
    "step of one value": (lambda: cell(step=lambda self, h, x: h + x)(X), ["step returned [4]", "expected two"]),
    "step of a dict": (
        lambda: cell(step=lambda self, h, x: ({"h": h}, h))(X),
        ["returned h as a dict", "came in as [4]"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_it_is_answered(name):
    call, words = MISTAKES[name]
    with pytest.raises((InputError, EngineRefused, IndexError, RuntimeError)) as caught:
        call()
    said = [str(caught.value), *getattr(caught.value, "__notes__", [])]
    assert [word for word in words if word not in " ".join(said)] == []
    assert isinstance(caught.value, InputError | EngineRefused) or len(said) == 2
    assert sum(len(text.splitlines()) for text in said) <= 2


def test_an_error_of_a_method_is_its_own():
    """Only what cannot be called is the contract's business; what goes wrong inside keeps its place."""
    with pytest.raises(TypeError, match=r"len\(\)"):
        cell(inputs=raises_inside)(X)
