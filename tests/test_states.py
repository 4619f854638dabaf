"""States as plain data: nothing of them is shared, and what is done with a dict gives a state."""

import copy
import io
import pickle

import pytest
import torch

import recurra
from recurra import Lane, LanguageModel, Recurrence, State

INTEGERS = [*(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)]


class HandsOn(Recurrence):
    """One state is what came in, one the same for every row."""

    lane = Lane.CHANNEL

    def __init__(self, width=3):
        super().__init__(width)
        self.begin = torch.nn.Parameter(torch.randn(width))

    def start(self):
        return {"h": torch.zeros(self.width), "kept": self.begin, "same": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, kept, same, x):
        h = h + kept * x * same
        return (h, kept, torch.ones(())), h


def every_layer():
    made = {name: kind(8) for name, kind in recurra.layers().items()}
    return made | {
        "a stack": recurra.layer("lstm", 8, num_layers=2),
        "a step that hands on": HandsOn(8),
    }


def is_apart(state, parameters, what):
    """Writing on one row of a state changes no other row, no other entry, and no parameter."""
    kept = [p.detach().clone() for p in parameters]
    for name, value in state.items():
        others = {n: v.detach().clone() for n, v in state.items()}
        with torch.no_grad():
            value[:1].fill_(1) if value.dtype is torch.int64 else value[:1].fill_(float("nan"))
        others[name][:1] = value[:1]
        for other, before in others.items():
            assert torch.equal(state[other].nan_to_num(7), before.nan_to_num(7)), (what, name, other)
    assert all(torch.equal(p, before) for p, before in zip(parameters, kept, strict=True)), what


def test_what_is_printed_says_what_it_is():
    state = recurra.layer("diagonal-lstm", 8).initial_state(2)
    assert repr(state) == "State(h [2, 8] float32, c [2, 8] float32)"
    assert str(state.to("meta").prefixed("0")) == "State(0.h [2, 8] float32 on meta, 0.c [2, 8] float32 on meta)"
    assert repr(recurra.State({})) == "State()"
    assert repr(recurra.State({"h": 3})) == "State(h 3)"
    assert repr(recurra.layer("gru", 64)).startswith("GRU(64)")
    assert "64, num_layers=2, bidirectional=True" in repr(recurra.layer("s5", 64, num_layers=2, bidirectional=True))
    assert "256, 8, 'gru*2'" in repr(recurra.LanguageModel(256, 8, "gru*2"))


def test_rows_of_states_share_no_memory():
    for what, layer in every_layer().items():
        parameters = list(layer.parameters())
        for batch in (1, 3):
            is_apart(layer.initial_state(batch), parameters, what)
            for time in (0, 1, 2):
                for engine in ("auto", "loop"):
                    with torch.no_grad():
                        _, state = layer(torch.randn(batch, time, 8), engine=engine)
                    is_apart(state, parameters, f"{what}, {time} steps, {engine}")
    model = LanguageModel(8, 8, "mamba+lstm+attention")
    is_apart(model.initial_state(3), list(model.parameters()), "a model")


def test_what_dicts_do_gives_states():
    _, state = recurra.layer("lstm", 4)(torch.randn(2, 3, 4))
    state, extra = state.detach(), {"extra": torch.zeros(2)}
    file = io.BytesIO()
    torch.save({"state": state}, file)
    file.seek(0)
    made = {
        "copy": state.copy(),
        "or": state | {},
        "or from the right": {} | state,
        "copy.copy": copy.copy(state),
        "deepcopy": copy.deepcopy(state),
        "pickle": pickle.loads(pickle.dumps(state)),
        "torch.load": torch.load(file)["state"],
    }
    for what, value in made.items():
        assert type(value) is State, what
        assert value is not state, what
        assert list(value) == list(state), what
        assert all(torch.equal(value[name], state[name]) for name in state), what
    assert list(state | extra) == [*state, "extra"]
    assert list(extra | state) == ["extra", *state]
    state |= extra
    assert type(state) is State
    with pytest.raises(TypeError):
        state | [1]


def test_tensors_without_plain_memory_are_not_written(tmp_path):
    """Wrapped by a transform, fake, of another class, sparse, without values."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    def refused(tensor):
        with pytest.raises(recurra.InputError, match=r"state\['h'\] is .*; a file holds plain dense tensors"):
            State(h=tensor).save(tmp_path / "state")
        return tensor

    torch.func.vmap(refused)(torch.randn(2, 3))
    torch.func.grad(lambda x: refused(x).sum())(torch.randn(3))
    with FakeTensorMode():
        refused(torch.randn(3))
    refused(torch.randn(3).as_subclass(Named))
    refused(torch.randn(3).to_sparse())
    refused(torch.empty(3, device="meta"))
    assert not list(tmp_path.iterdir())


class Named(torch.Tensor):
    """A tensor of another class."""


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_of_any_type_are_lengths_and_rows(dtype):
    layer, x = recurra.layer("lstm", 4), torch.randn(3, 5, 4)
    lengths = torch.tensor([5, 0, 3])
    expected, after = layer(x, lengths=lengths)
    y, state = layer(x, lengths=lengths.to(dtype))
    assert torch.equal(y, expected)
    assert torch.equal(state["h"], after["h"])
    assert torch.equal(state.rows(torch.tensor([2, 0]).to(dtype))["h"], after["h"][[2, 0]])
    largest = torch.tensor([1, torch.iinfo(dtype).max, 0], dtype=dtype)
    with pytest.raises(recurra.InputError, match=rf"lengths\[1\] is {torch.iinfo(dtype).max}; expected 0 to 5"):
        layer(x, lengths=largest)
    with pytest.raises(recurra.InputError, match="index is"):
        state.rows(largest)
