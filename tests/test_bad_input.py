"""Bad input to a layer: every message names the argument, what came and what was expected, in one or two lines."""

import re

import pytest
import torch

import recurra
from recurra import Lane, LanguageModel, Recurrence, State, sealed
from recurra.data.baselines import baselines
from recurra.data.text import Windows, read, split
from recurra.interop.convert import to_transformers
from recurra.models import files
from recurra.models.titans import MemoryAsGate
from recurra.models.xlstm import XLSTM
from recurra.state import PAIRS
from recurra.streaming.session import Session
from recurra.testing.laws import check_recurrence
from recurra.training.config import TrainConfig
from recurra.training.evaluate import bits_per_byte
from recurra.training.trainer import train


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


class Elsewhere(Cell):
    def __init__(self, width):
        super().__init__(width)
        self.rates = torch.ones(width, device="meta")

    def step(self, h, c, x):
        return (h * self.rates + x, c), h


def elsewhere():
    return Elsewhere(4)


def layer():
    return recurra.layer("lstm", 4)


def attention():
    return recurra.layer("attention", 4)


def model(**options):
    return LanguageModel(8, 8, "lstm", **options).eval()


X, IDS = torch.randn(2, 5, 4), torch.zeros(2, 5, dtype=torch.int64)


def two_states(**changes):
    return State(layer().initial_state(2) | changes)


BAD = {
    "rank": (lambda: layer()(X[0]), ["x is [5, 4]", "[B, T, 4]"]),
    "width": (lambda: layer()(X[..., :3]), ["x is [2, 5, 3]", "[B, T, 4]"]),
    "not a tensor": (lambda: layer()([1.0]), ["x is a list", "[B, T, 4]"]),
    "dtype": (lambda: layer()(X.double()), ["x is torch.float64", "torch.float32", "x.to("]),
    "integer": (lambda: cell()(X.long()), ["x is [2, 5, 4] int64", "floating point"]),
    "device": (lambda: layer()(X.to("meta")), ["x is on meta", "cpu"]),
    "device of what a step reads": (
        lambda: elsewhere()(X),
        ["Elsewhere.step reads 'rates', which is on meta, x on cpu", "layer.to"],
    ),
    "device of what a single step reads": (
        lambda: elsewhere().advance(X[:, 0]),
        ["Elsewhere.step reads 'rates', which is on meta, x on cpu", "layer.to"],
    ),
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
    "engine of no name": (lambda: layer()(X, engine=["loop"]), ["engine is ['loop']", "'loop'"]),
    "engine of attention": (lambda: recurra.layer("attention", 4)(X, engine={}), ["engine is {}", "'parallel'"]),
    "layer width type": (lambda: recurra.layer("lstm", True), ["width is True", "positive int"]),
    "layer width size": (lambda: recurra.layer("lstm", 10**30), ["width is 1000", "below 2147483648"]),
    "layer width passed on": (lambda: recurra.layer("falcon-mamba", "8"), ["width is '8'", "positive int"]),
    "layer depth": (lambda: recurra.layer("lstm", 8, num_layers="2"), ["num_layers is '2'", "positive int"]),
    "layer directions": (lambda: recurra.layer("lstm", 8, bidirectional=1), ["bidirectional is 1", "True or False"]),
    "layer option": (
        lambda: recurra.layer("mamba", 4, foo=3),
        ["layer 'mamba' has no option 'foo'", "state_size=16, expand=2, kernel=4, rank=None, bias=False"],
    ),
    "layer option passed on": (
        lambda: recurra.layer("falcon-mamba", 4, foo=3),
        ["layer 'falcon-mamba' has no option 'foo'", "rank=None, eps=1e-06, weighted=False, state_size=16, expand=2"],
    ),
    "keys of no width": (lambda: recurra.layer("xlstm-7b", 1, heads=1), ["width times key is 0", "positive int"]),
    "batch": (lambda: layer().initial_state("2"), ["batch is '2'", "at least 0"]),
    "batch size": (lambda: model().initial_state(-1), ["batch is -1", "at least 0"]),
    "like": (lambda: layer().initial_state(2, 3), ["like is 3", "Tensor"]),
    "step of a stack": (
        lambda: recurra.layer("lstm", 4, num_layers=2).advance(None),
        ["x_t is a NoneType", "[B, 4]"],
    ),
    "state of a stack": (
        lambda: recurra.layer("lstm", 4, num_layers=2)(X, {"h": X}),
        ["state holds 'h'", "begin with 0., 1."],
    ),
    "state of a stack, no mapping": (lambda: XLSTM(4, "slstm", 2)(X, [X]), ["state is a list", "State"]),
    "state of a block": (lambda: MemoryAsGate(4, 2)(X, {3: X}), ["state holds 3", "begin with memory., attention."]),
    "state of a model": (lambda: model()(IDS, {"h": X}), ["state holds 'h'", "begin with blocks.0."]),
    "model config": (lambda: LanguageModel.from_config(None), ["config is None", "vocabulary, width, pattern"]),
    "model config's names": (lambda: LanguageModel.from_config({"depth": 1}), ["config holds ['depth']", "vocabulary"]),
    "model both ways": (lambda: model(layers={"lstm": {"bidirectional": True}}), ["['lstm'] bidirectional", "predict"]),
    "model layers": (lambda: model(layers={"lstm": 3}), ["layers is {'lstm': 3}", "with their options"]),
    "model design": (lambda: model(design=X), ["design is a Tensor", "a dict with some of norm, eps"]),
    "model design's names": (lambda: model(design={"nrom": 1}), ["{'nrom': 1}", "a dict with some of norm, eps"]),
    "model dropout": (lambda: model(dropout="0"), ["dropout is '0'", "below 1"]),
    "model folder": (lambda: recurra.load(None), ["folder is None", "a path"]),
    "model to save": (lambda: files.save(layer(), "x"), ["model is ", "LanguageModel"]),
    "what to save with a model": (lambda: files.save(model(), "x", 3), ["about is 3", "a dict"]),
    "what no JSON holds": (lambda: files.save(model(), "x", {"a": X}), ["about is", "data that JSON can hold"]),
    "model to convert": (lambda: to_transformers(None, "x"), ["model is None", "LanguageModel"]),
    "seed": (lambda: model().stream(seed="a"), ["seed is 'a'", "an int"]),
    "seed size": (lambda: model().stream(seed=2**70), ["seed is 1180591620717411303424", "below"]),
    "model of a session": (lambda: Session(layer()), ["model is ", "LanguageModel"]),
    "state of a session": (lambda: model().stream(3), ["state is a int", "of one sequence"]),
    "state of a session's names": (lambda: model().stream({}), ["state holds []", "of one sequence"]),
    "state of a session's rows": (
        lambda: model().stream(model().initial_state(2)),
        ["state['h'] holds 2 sequences", "state.rows(0)"],
    ),
    "state of a session's width": (
        lambda: model().stream(LanguageModel(8, 16, "lstm").initial_state(1)),
        ["state['h'] is [1, 1, 16]", "expects [1, 1, 8]"],
    ),
    "session file": (lambda: Session.load(model(), None), ["path is None", "a path"]),
    "state file": (lambda: State.load(3), ["path is 3", "a path"]),
    "state file to write": (lambda: two_states().save(None), ["path is None", "a path"]),
    "rows": (lambda: two_states().rows(5), ["index is 5", "positions below 2"]),
    "rows of no name": (lambda: two_states().rows("a"), ["index is 'a'", "a slice"]),
    "rows of fractions": (lambda: two_states().rows(torch.tensor([0.5])), ["index is tensor([0.5000])", "positions"]),
    "rows of everything": (lambda: two_states().rows(...), ["index is Ellipsis", "positions below 2"]),
    "rows of no row": (lambda: two_states().rows(None), ["index is None", "positions below 2"]),
    "rows by two axes": (lambda: two_states().rows(torch.tensor([[0]])), ["index is tensor([[0]])", "positions"]),
    "rows by another mask": (lambda: two_states().rows(torch.tensor([True])), ["tensor([True])", "positions below 2"]),
    "row True": (lambda: two_states().rows(0).rows(True), ["index is True", "positions below 1"]),
    "rows of a number": (lambda: State(h=torch.tensor(1.0)).rows(0), ["index is 0", "positions below 0"]),
    "state of numbers": (lambda: State(h=3).detach(), ["state['h'] is 3", "a tensor [B, ...]"]),
    "bytes of numbers": (lambda: State(h=3).nbytes, ["state['h'] is 3", "a tensor [B, ...]"]),
    "function on a state": (lambda: two_states().map("tanh"), ["function is 'tanh'", "a function"]),
    "function of no tensors": (lambda: two_states().map(len), ["function returned 2 for 'h'", "a tensor"]),
    "state on a device": (lambda: two_states().to("gpu"), ["device is 'gpu'", "that is there, such as 'cpu'"]),
    "state on a number": (lambda: two_states().to(3.5), ["device is 3.5", "that is there, such as 'cpu'"]),
    "state of integers": (lambda: two_states().to(torch.int32), ["dtype is torch.int32", "floating point"]),
    "state of a type": (lambda: two_states().to("cpu", "float64"), ["dtype is 'float64'", "floating point"]),
    "prefix": (lambda: two_states().under(3), ["prefix is 3", "str"]),
    "prefix to add": (lambda: two_states().prefixed(None), ["prefix is None", "str"]),
    "metadata": (lambda: two_states().save("x", 3), ["metadata is 3", "a dict of str to str"]),
    "metadata's values": (lambda: two_states().save("x", {"a": 3}), ["metadata is {'a': 3}", "a dict of str to str"]),
    "metadata's names": (
        lambda: two_states().save("x", {"recurra.digest": "a"}),
        ["metadata names 'recurra.digest'", "do not begin with 'recurra.'"],
    ),
    "path of no file": (lambda: two_states().save("a\0b"), ["path is 'a\\x00b'", "a path"]),
    "file of no tensors": (lambda: State(h=3).save("x"), ["state['h'] is 3", "a tensor"]),
    "file of numbered names": (lambda: State({3: X}).save("x"), ["state[3] is float32", "under names of str"]),
    "file of no values": (lambda: two_states().to("meta").save("x"), ["state['h'] is float32 on meta", "have values"]),
    "file's device": (lambda: State.load("x", "gpu"), ["device is 'gpu'", "such as 'cpu'"]),
    "state to trim": (lambda: layer().trim(3), ["state is a int", "LSTM"]),
    "entries to trim": (lambda: attention().trim({}), ["state holds []", "expects ['keys', 'position', 'values']"]),
    "rows to trim": (
        lambda: layer().trim(two_states(c=torch.zeros(3, 1, 4))),
        ["state['c'] holds 3 sequences", "state['h'] holds 2"],
    ),
    "position to trim": (
        lambda: attention().trim(attention()(X)[1] | {"position": torch.tensor([9, 2])}),
        ["state['position'][0] is 9, with 5 entries in state['keys']", "as this layer returned it"],
    ),
    "scan's function": (lambda: recurra.scan(None, X), ["combine is None", "a function"]),
    "scan's axis": (lambda: recurra.scan(torch.add, X, "1"), ["dim is '1'", "an int"]),
    "text to evaluate on": (lambda: bits_per_byte(model(), "text"), ["text is 'text'", "expected bytes"]),
    "model to evaluate": (lambda: bits_per_byte(None, b"text"), ["model is None", "LanguageModel"]),
    "pieces": (lambda: bits_per_byte(model(), b"text", pieces="2"), ["pieces is '2'", "positive int"]),
    "config to train": (lambda: train({}, b"text", "x"), ["config is {}", "TrainConfig"]),
    "folder to train in": (lambda: train(TrainConfig(), b"text", None), ["folder is None", "a path"]),
    "text to read": (lambda: read(None), ["path is None", "a path"]),
    "text to split": (lambda: split("text"), ["data is 'text'", "bytes"]),
    "text to compress": (lambda: baselines(b"a", "b"), ["held_out is 'b'", "bytes"]),
    "windows": (lambda: Windows(b"text", "2", 1), ["batch is '2'", "positive int"]),
    "laws of what": (lambda: check_recurrence(None), ["make is None", "a function"]),
    "laws on what": (lambda: check_recurrence(layer, "loop"), ["engines is 'loop'", "a list of str"]),
    "laws in what": (lambda: check_recurrence(layer, dtypes=[1]), ["dtypes is [1]", "a list of dtype"]),
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


def test_a_written_file_gets_its_folder_and_errors_name_it(tmp_path):
    path = tmp_path / "new" / "folder" / "state"
    two_states().save(path)
    assert set(State.load(path)) == {"c", "h"}
    for wrong in (path / "below a file", tmp_path / "new"):
        with pytest.raises(OSError, match=re.escape(str(wrong))) as caught:
            two_states().save(wrong)
        assert caught.value.filename == str(wrong)
        assert caught.value.filename2 is None
    assert [p.name for p in path.parent.iterdir()] == ["state"]
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_a_state_file_that_is_none(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"not safetensors")
    with pytest.raises(recurra.InputError, match="cannot be read"):
        State.load(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["lru", "s4d", "mamba", "attention"])
def test_a_state_of_any_type_is_what_was_saved(name, dtype, tmp_path):
    _, state = recurra.layer(name, 4).to(dtype)(X.to(dtype))
    for given in (state, State({name: value.conj() for name, value in state.items()})):
        given.save(tmp_path / "state", {"of": name})
        again = State.load(tmp_path / "state")
        assert set(again) == set(given)
        for key, value in given.items():
            assert again[key].dtype is value.dtype
            assert torch.equal(again[key], value)


@pytest.mark.parametrize("pairs", ["[", "3", '["c"]', '["h"]', "[[1]]"])
def test_a_state_file_with_other_pairs(pairs, tmp_path):
    sealed.write(tmp_path / "state", "state", {"h": torch.zeros(2, 3)}, {PAIRS: pairs})
    with pytest.raises(recurra.InputError, match="cannot be read"):
        State.load(tmp_path / "state")


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


def test_a_state_moves_in_precision_only():
    """What is complex stays so, and what counts still counts."""
    linear = recurra.layer("lru", 4)
    _, state = linear(X)
    _, after = linear.double()(X.double(), state.to(torch.float64))
    assert after["h"].dtype is torch.complex128
    assert after.to(torch.float32)["h"].dtype is torch.complex64
    looking = attention()
    _, state = looking(X)
    y, state = looking.double()(X.double(), state.to("cpu", torch.float64))
    assert y.dtype is state["keys"].dtype is torch.float64
    assert state["position"].tolist() == [10, 10]


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        *[(1, [1]), (-1, [2]), (torch.tensor(1), [1]), ([2, 0], [2, 0]), ((0, 0), [0, 0]), (slice(1, None), [1, 2])],
        *[(torch.tensor([True, False, True]), [0, 2]), (torch.tensor([1, 2], dtype=torch.uint8), [1, 2])],
    ],
)
def test_rows_of_a_state(index, rows):
    state = State(h=torch.arange(6.0).view(3, 2), position=torch.tensor([5, 6, 7]))
    assert state.rows(index)["position"].tolist() == [5 + row for row in rows]
    assert state.rows(index)["h"].tolist() == [[2.0 * row, 2.0 * row + 1] for row in rows]
