"""Bad input to a layer: every message names the argument, what came and what was expected, in one or two lines."""

import pytest
import torch

import recurra
from recurra import Lane, Recurrence, State


class Cell(Recurrence):
    lane = Lane.CHANNEL

    def start(self):
        return {"h": torch.zeros(self.width), "c": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, c, x):
        return (h + x, c), h


def cell(**methods):
    return type("Cell", (Cell,), methods)(4)


def layer():
    return recurra.layer("lstm", 4)


X = torch.randn(2, 5, 4)


def two_states(**changes):
    return State(layer().initial_state(2) | changes)


BAD = {
    "rank": (lambda: layer()(X[0]), ["x is [5, 4]", "[B, T, 4]"]),
    "width": (lambda: layer()(X[..., :3]), ["x is [2, 5, 3]", "[B, T, 4]"]),
    "not a tensor": (lambda: layer()([1.0]), ["x is a list", "[B, T, 4]"]),
    "dtype": (lambda: layer()(X.double()), ["x is torch.float64", "torch.float32", "x.to("]),
    "integer": (lambda: cell()(X.long()), ["x is [2, 5, 4] int64", "floating point"]),
    "device": (lambda: layer()(X.to("meta")), ["x is on meta", "cpu"]),
    "step rank": (lambda: layer().advance(X), ["x_t is [2, 5, 4]", "[B, 4]"]),
    "state type": (lambda: layer()(X, X), ["state is [2, 5, 4]", "LSTM"]),
    "state of another layer": (
        lambda: layer()(X, recurra.layer("slstm", 4).initial_state(2)),
        ["state holds", "'m'", "LSTM expects ['c', 'h']"],
    ),
    "state of another width": (
        lambda: layer()(X, recurra.layer("lstm", 8).initial_state(2)),
        ["state['h'] is [2, 1, 8]", "expects [2, 1, 4]"],
    ),
    "state of another batch": (
        lambda: layer()(X, layer().initial_state(3)),
        ["state['h'] holds 3 sequences", "x holds 2"],
    ),
    "state dtype": (lambda: layer()(X, two_states().to(torch.float64)), ["state['h'] is", "float64", "float32"]),
    "resets shape": (
        lambda: layer()(X, resets=torch.zeros(2, 4, dtype=torch.bool)),
        ["resets is [2, 4] bool", "[2, 5] bool"],
    ),
    "resets dtype": (lambda: layer()(X, resets=torch.zeros(2, 5)), ["resets is [2, 5] float32", "[2, 5] bool"]),
    "lengths shape": (lambda: layer()(X, lengths=torch.tensor([1])), ["lengths is [1] int64", "[2] integers"]),
    "lengths dtype": (lambda: layer()(X, lengths=torch.tensor([1.0, 2.0])), ["lengths is [2] float32", "integers"]),
    "lengths too long": (lambda: layer()(X, lengths=torch.tensor([1, 6])), ["lengths[1] is 6", "0 to 5"]),
    "lengths negative": (lambda: layer()(X, lengths=torch.tensor([-1, 5])), ["lengths[0] is -1", "0 to 5"]),
    "engine": (lambda: layer()(X, engine="warp"), ["engine is 'warp'", "'loop'"]),
    "layer name": (lambda: recurra.layer("lsmt", 4), ["layer 'lsmt'", "lstm"]),
    "layer width": (lambda: recurra.layer("lstm", 0), ["width is 0", "positive int"]),
    "step changes a shape": (
        lambda: cell(step=lambda self, h, c, x: ((h[None], c), h))(X),
        ["Cell.step returned h as [1] float32", "came in as [] float32"],
    ),
    "step changes a dtype": (
        lambda: cell(step=lambda self, h, c, x: ((h, c.double()), h))(X),
        ["Cell.step returned c as [] float64", "[] float32"],
    ),
    "step forgets a state": (
        lambda: cell(step=lambda self, h, c, x: (h, h))(X),
        ["Cell.step returned 1 state(s)", "expected 2: (h, c)"],
    ),
    "step gives no output": (
        lambda: cell(step=lambda self, h, c, x: h)(X),
        ["Cell.step returned", "expected two: the new state (h, c) and the output"],
    ),
    "step gives no tensor": (
        lambda: cell(step=lambda self, h, c, x: ((h, c), None))(X),
        ["Cell.step returned a NoneType as output", "tensor"],
    ),
    "step takes other names": (
        lambda: cell(step=lambda self, h, c, z: ((h, c), z))(X),
        ["Cell.inputs returned ['x']", "step takes ['z'] after its 2 state(s)"],
    ),
    "inputs are no dict": (lambda: cell(inputs=lambda self, x: x)(X), ["Cell.inputs returned [2, 5, 4]", "dict"]),
    "inputs lack the lane axis": (
        lambda: cell(inputs=lambda self, x: {"x": x[..., 0]})(X),
        ["Cell.inputs returned 'x' as [2, 5]", "leading [2, 5, 4]", "shared("],
    ),
    "start is no dict": (lambda: cell(start=lambda self: torch.zeros(4))(X), ["Cell.start() returned [4]", "dict"]),
}


@pytest.mark.parametrize("case", BAD)
def test_message(case):
    call, words = BAD[case]
    with pytest.raises(recurra.InputError) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert word in message
    assert message.count("\n") <= 1
    assert len(message) < 300


def test_a_state_file_that_is_none(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"not safetensors")
    with pytest.raises(recurra.InputError, match="cannot be read"):
        State.load(path)


def test_a_state_can_be_saved_moved_detached_and_indexed(tmp_path):
    _, state = recurra.layer("lru", 4)(X)
    state.save(tmp_path / "state")
    again = State.load(tmp_path / "state")
    assert all(torch.equal(again[name], value) for name, value in state.items())
    assert all(value.requires_grad for value in state.values())
    assert not any(value.requires_grad for value in state.detach().values())
    assert state.rows(1)["h"].shape == (1, 4)
    assert torch.equal(state.rows(torch.tensor([1, 0]))["h"][0], state["h"][1])
    assert state.to(torch.complex128)["h"].dtype == torch.complex128
    assert state.nbytes == 2 * 4 * 8
