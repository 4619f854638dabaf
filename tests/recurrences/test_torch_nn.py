"""Same weights as torch.nn, same numbers: values and gradients, in depth and both directions."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import recurra
from recurra.testing.tolerances import assert_close
from recurra.training.carry import carried

PEERS = {
    "rnn-tanh": ("rnn", {}, torch.nn.RNN, {}),
    "rnn-relu": ("rnn", {"nonlinearity": "relu"}, torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": ("lstm", {}, torch.nn.LSTM, {}),
    "gru": ("gru", {}, torch.nn.GRU, {}),
    "projected-lstm": ("projected-lstm", {"projection": 3}, torch.nn.LSTM, {"proj_size": 3}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("layers", "both"), [(1, False), (1, True), (3, False), (2, True)])
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_equals_torch(peer, layers, both, dtype):
    name, options, kind, torch_options = PEERS[peer]
    theirs = kind(5, 7, layers, bidirectional=both, batch_first=True, dtype=dtype, **torch_options)
    ours = recurra.layer(name, 5, hidden=7, num_layers=layers, bidirectional=both, **options).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 6, 5, dtype=dtype)
    results = []
    for model in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = model(leaf)[0]
        results.append((y, torch.autograd.grad(y.square().sum(), leaf)[0]))
    assert_close("y", results[0][0], results[1][0])
    assert_close("gradient of x", results[0][1], results[1][1])


def test_a_single_layer_loads_torch_weights_directly():
    theirs = torch.nn.LSTM(5, 7, batch_first=True)
    ours = recurra.layer("lstm", 5, hidden=7)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4, 5)
    y, state = ours(x)
    expected, (h, c) = theirs(x)
    assert_close("y", y, expected)
    assert_close("h", state["h"][:, 0], h[0])
    assert_close("c", state["c"][:, 0], c[0])


@pytest.mark.parametrize("both", [False, True])
def test_lengths_equal_packed_sequences(both):
    theirs = torch.nn.GRU(4, 6, 2, bidirectional=both, batch_first=True)
    ours = recurra.layer("gru", 4, hidden=6, num_layers=2, bidirectional=both)
    ours.load_state_dict(theirs.state_dict())
    x, lengths = torch.randn(4, 7, 4), torch.tensor([7, 5, 2, 1])
    packed = theirs(pack_padded_sequence(x, lengths, batch_first=True))[0]
    expected = pad_packed_sequence(packed, batch_first=True, total_length=7)[0]
    assert_close("y", ours(x, lengths=lengths)[0], expected)


def test_packed_rows_run_apart_in_both_directions():
    layer = recurra.layer("lstm", 4, num_layers=2, bidirectional=True)
    x, resets = torch.randn(1, 9, 4), torch.zeros(1, 9, dtype=torch.bool)
    resets[0, [0, 2, 6]] = True
    y, _ = layer(x, resets=resets)
    for a, b in ((0, 2), (2, 6), (6, 9)):
        assert_close(f"{a}:{b}", y[:, a:b], layer(x[:, a:b])[0])


def test_own_state_dict_of_a_stack_round_trips():
    one, two = (recurra.layer("mamba", 4, num_layers=2) for _ in range(2))
    two.load_state_dict(one.state_dict())
    x = torch.randn(2, 5, 4)
    assert_close("y", two(x)[0], one(x)[0])


def test_a_stack_streams():
    layer = recurra.layer("min-lstm", 4, num_layers=3)
    x = torch.randn(2, 5, 4)
    y, end = layer(x)
    state, steps = None, []
    for t in range(5):
        out, state = layer.advance(x[:, t], state)
        steps.append(out)
    assert_close("y", torch.stack(steps, 1), y)
    assert set(state) == set(end) == set(layer.initial_state(2))


def test_a_bidirectional_stack_does_not_stream():
    layer = recurra.layer("gru", 4, bidirectional=True)
    with pytest.raises(recurra.InputError, match="bidirectional"):
        layer.advance(torch.randn(1, 4))
    with pytest.raises(recurra.InputError, match="bidirectional"):
        layer(torch.randn(1, 3, 4), layer.initial_state(1))


def test_a_stack_explains_every_layer():
    layer = recurra.layer("lstm", 4, hidden=6, num_layers=2, bidirectional=True)
    said = layer.explain(torch.randn(2, 700, 4))
    assert list(said) == list(layer.structure) == ["0", "0.reverse", "1", "1.reverse"]
    assert said["0"] == recurra.layer("lstm", 4, hidden=6).explain(torch.randn(2, 700, 4))
    assert said["1.reverse"] == recurra.layer("lstm", 12, hidden=6).explain(torch.randn(2, 700, 12))
    assert layer.structure["1.reverse"] == recurra.layer("lstm", 12, hidden=6).structure
    for name, one in said.items():
        assert f"Layer {name}: nonlinear in the state" in str(said)
        assert str(one) in str(said)
    with pytest.raises(recurra.InputError, match=r"x is \[2, 700, 6\] .* expects \[B, T, 4\]"):
        layer.explain(torch.randn(2, 700, 6))


@pytest.mark.parametrize("both", [False, True])
def test_trim_of_a_stack_is_that_of_its_layers(both):
    layer = recurra.layer("attention", 8, num_layers=2, bidirectional=both)
    _, state = layer(torch.randn(2, 6, 8), lengths=torch.tensor([6, 2]))
    trimmed = layer.trim(state.rows(1))
    assert list(trimmed) == list(state)
    for name, value in trimmed.items():
        kept = value if name.endswith("position") else value[0, 0]
        assert len(kept) == (1 if name.endswith("position") else 2)
        assert torch.equal(value, state[name][1:, ..., -2:, :] if value.dim() == 4 else state[name][1:])
    with pytest.raises(recurra.InputError, match=r"state holds \[\]; CausalAttention expects"):
        layer.trim(None)
    with pytest.raises(recurra.InputError, match="state holds 'h'; this stack expects"):
        layer.trim({"h": torch.zeros(1)})
    with pytest.raises(recurra.InputError, match="is it another layer's"):
        recurra.layer("lstm", 8, num_layers=2, bidirectional=both).trim(state)


@pytest.mark.parametrize("name", ["lstm", "attention"])
def test_training_carries_the_state_of_a_stack(name):
    model = recurra.LanguageModel(32, 8, f"min-gru+{name}", layers={name: {"num_layers": 2}})
    _, state = model(torch.randint(0, 32, (2, 5)))
    kept = carried(model, state, 2)
    assert set(kept) == set(state)
    for entry, value in kept.items():
        fresh = name == "attention" and entry.startswith("blocks.1")
        expected = model.initial_state(2)[entry] if fresh else state[entry]
        assert torch.equal(value, expected)
