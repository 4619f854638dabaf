"""The language model: patterns, packing, state, files."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import recurra
from recurra.errors import InputError
from recurra.models import files
from recurra.models.design import Design
from recurra.models.language_model import LanguageModel
from recurra.models.pattern import parse
from recurra.options import LAYERS
from recurra.testing.tolerances import assert_close


def model(pattern="mamba+lstm", **options):
    return LanguageModel(vocabulary=11, width=8, pattern=pattern, **options).eval()


@given(st.lists(st.tuples(st.sampled_from(["mamba", "lstm", "min-gru"]), st.integers(1, 9)), min_size=1, max_size=4))
def test_pattern(parts):
    expected = [name for name, count in parts for _ in range(count)]
    assert parse("+".join(f"{name}*{count}" for name, count in parts)) == expected
    assert parse(" + ".join(expected)) == expected


@pytest.mark.parametrize(
    "bad", ["", "mamba**2", "mamba*0", "mamba+", "nope*2", "3*mamba", None, f"lstm*{LAYERS}", "lstm*999999999"]
)
def test_bad_pattern(bad):
    with pytest.raises(recurra.InputError, match=r"pattern|not known"):
        parse(bad)


@settings(max_examples=10)
@given(cut=st.integers(0, 8), seed=st.integers(0, 1000))
def test_cut_and_advance_equal_the_whole(cut, seed):
    torch.manual_seed(seed)
    net, tokens = model(), torch.randint(0, 11, (2, 9))
    whole, end = net(tokens)
    first, state = net(tokens[:, :cut])
    second, state = net(tokens[:, cut:8], state)
    last, state = net.advance(tokens[:, 8], state)
    assert_close("logits", torch.cat([first, second, last[:, None]], 1), whole)
    assert set(state) == set(end) == set(net.initial_state(2))
    for name in end:
        assert_close(name, state[name], end[name])


def test_packed_and_padded():
    net, tokens = model("rg-lru+gru"), torch.randint(0, 11, (1, 8))
    resets = torch.zeros(1, 8, dtype=torch.bool)
    resets[0, 3] = True
    packed, _ = net(tokens, resets=resets)
    assert_close("second sequence", packed[:, 3:], net(tokens[:, 3:])[0])
    padded, state = net(tokens, lengths=torch.tensor([5]))
    valid, end = net(tokens[:, :5])
    assert_close("valid part", padded[:, :5], valid)
    for name in end:
        assert_close(name, state[name], end[name])


def test_the_engine_named_runs_every_block():
    made = model("mamba*2+lstm")
    with recurra.observe() as seen:
        made(torch.zeros(1, 2, dtype=torch.int64), engine="loop")
    assert seen == ["loop"] * 3
    with pytest.raises(recurra.InputError, match="engine"):
        model()(torch.zeros(1, 2, dtype=torch.int64), engine="warp")


@pytest.mark.parametrize(
    "tokens",
    [torch.zeros(3, dtype=torch.int64), torch.zeros(1, 3), torch.tensor([[11]]), torch.tensor([[-1]]), "text"],
    ids=str,
)
def test_bad_tokens(tokens):
    with pytest.raises(recurra.InputError, match="tokens"):
        model()(tokens)


@pytest.mark.parametrize("token", [3, "a", torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1)], ids=str)
def test_bad_token(token):
    with pytest.raises(recurra.InputError, match="token"):
        model().advance(token)


def test_mapped_over_tokens():
    """Per-sample gradients: what torch.func maps over are further rows; tokens out of range are seen there too."""
    model = recurra.LanguageModel(12, 8, "gru+mamba", mlp=0)
    weights, tokens = dict(model.named_parameters()), torch.randint(12, (3, 5))

    def loss(weights, row):
        return torch.func.functional_call(model, weights, (row[None],))[0].square().mean()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, tokens)
    for i, row in enumerate(tokens):
        expected = torch.autograd.grad(loss(weights, row), list(weights.values()))
        for name, value in zip(weights, expected, strict=True):
            torch.testing.assert_close(found[name][i], value)
    with pytest.raises(InputError, match="tokens holds 12; expected 0 to 11"):
        torch.func.vmap(lambda row: model(row[None])[0])(tokens.where(tokens != tokens[1, 1], 12))


def test_a_state_that_does_not_fit():
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    states = [
        model("lstm+mamba").initial_state(2),
        model("mamba").initial_state(2),
        model("mamba+lstm*2").initial_state(2),
        model().initial_state(3),
        [1],
    ]
    for state in states:
        with pytest.raises(recurra.InputError, match="state"):
            model()(tokens, state)


@pytest.mark.parametrize(
    ("name", "value"),
    [("vocabulary", 0), ("width", 8.5), ("width", -1), ("mlp", -1), ("mlp", "a"), ("dropout", 1.0), ("dropout", None)],
)
def test_bad_settings(name, value):
    with pytest.raises(recurra.InputError, match=f"{name} is"):
        LanguageModel(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("norm", "batch"), ("eps", -1), ("scale", 0), ("soft_cap", "no"), ("tied", 1), ("activation", "relu")],
)
def test_bad_design(name, value):
    with pytest.raises(recurra.InputError, match=f"{name} is"):
        LanguageModel(design={name: value})
    with pytest.raises(recurra.InputError, match="design is"):
        LanguageModel(design={"colour": "red"})


def test_bad_options_of_layers():
    with pytest.raises(recurra.InputError, match=r"layers names \['gru'\]"):
        model(layers={"gru": {}})
    with pytest.raises(recurra.InputError, match="depth"):
        model(layers={"mamba": {"depth": 2}})
    with pytest.raises(recurra.InputError, match="layers is"):
        model(layers=["mamba"])


def test_dropout_is_for_training_only():
    net, tokens = model(dropout=0.5), torch.randint(0, 11, (1, 5))
    assert torch.equal(net(tokens)[0], net(tokens)[0])
    net.train()
    assert not torch.equal(net(tokens)[0], net(tokens)[0])


@pytest.mark.parametrize("name", recurra.layers())
def test_files_round_trip(tmp_path, name):
    net, tokens = model(f"{name}+min-gru"), torch.randint(0, 11, (1, 5))
    files.save(net, tmp_path / "new")
    loaded = recurra.load(tmp_path / "new")
    assert loaded.config == net.config == json.loads((tmp_path / "new/config.json").read_text())["model"]
    assert not loaded.training
    assert torch.equal(loaded(tokens)[0], net(tokens)[0])


def test_folders_from_before_designs_load(tmp_path):
    net, tokens = model(), torch.randint(0, 11, (1, 5))
    files.save(net, tmp_path)
    first = ("vocabulary", "width", "pattern", "mlp", "dropout")
    config = {"model": {name: net.config[name] for name in first}, "training": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(files.load(tmp_path)(tokens)[0], net(tokens)[0])


def test_designs(tmp_path):
    """What each field changes, seen from outside; the families in tests/interop hold the numbers."""
    tokens = torch.randint(0, 11, (1, 5))
    net = model(
        mlp=0,
        layers={"mamba": {"state_size": 3}, "lstm": {"hidden": 8}},
        design=Design(norm="layer", tied=False, soft_cap=0.5, embedding_norm=True, scale=1.0),
    )
    assert net.blocks[0].recurrence.A_log.shape == (16, 3)
    assert not any("mlp" in name for name, _ in net.named_parameters())
    assert {"head.weight", "norm.bias", "embedding_norm.bias"} <= set(net.state_dict())
    with torch.no_grad():
        net.head.weight.mul_(100)
        assert 0.4 < net(tokens)[0].abs().max() <= 0.5
    files.save(net, tmp_path)
    assert torch.equal(recurra.load(tmp_path)(tokens)[0], net(tokens)[0])


def test_a_float32_residual_loses_less():
    torch.manual_seed(0)
    exact = model("mamba*12", mlp=0).bfloat16().double()
    tokens = torch.randint(0, 11, (4, 9))
    with torch.no_grad():
        expected = exact(tokens)[0]
        off = {}
        for wide in (False, True):
            net = model("mamba*12", mlp=0, design={"float32_residual": wide})
            net.load_state_dict(exact.state_dict())
            off[wide] = float((net.bfloat16()(tokens)[0] - expected).norm())
    assert off[True] < off[False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_files_keep_the_dtype(tmp_path, dtype):
    net, tokens = model().to(dtype), torch.randint(0, 11, (1, 5))
    files.save(net, tmp_path)
    assert torch.equal(files.load(tmp_path)(tokens)[0], net(tokens)[0])


@pytest.mark.parametrize(
    "config",
    [
        *["", "{}", "[]", "null", '{"model": 3}', '{"model": {"width": -1}}', '{"model": {"depth": 2}}', "\xff"],
        pytest.param("[" * 100000, id="deep"),
    ],
)
def test_a_config_that_is_none(tmp_path, config):
    files.save(model(), tmp_path)
    (tmp_path / "config.json").write_bytes(config.encode("latin-1"))
    with pytest.raises(recurra.InputError, match=r"config\.json does not describe a model"):
        files.load(tmp_path)


def test_weights_that_are_missing_damaged_or_foreign(tmp_path):
    for missing in ("config.json", "model.safetensors"):
        files.save(model(), tmp_path)
        (tmp_path / missing).unlink()
        with pytest.raises(recurra.InputError, match=missing):
            files.load(tmp_path)
    files.save(model(), tmp_path / "whole")
    content = (tmp_path / "whole/model.safetensors").read_bytes()
    files.save(model("lstm"), tmp_path / "other")
    foreign = (tmp_path / "other/model.safetensors").read_bytes()
    for damage in (b"", b"rubbish", content[:-5], content[:50], foreign):
        (tmp_path / "whole/model.safetensors").write_bytes(damage)
        with pytest.raises(recurra.InputError, match=r"model\.safetensors does not fit") as raised:
            files.load(tmp_path / "whole")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64, torch.int32])
def test_weights_that_no_model_computes_with(tmp_path, dtype):
    files.save(model(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name: value.to(dtype) for name, value in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(recurra.InputError, match=rf"holds weights of {str(dtype)[6:]}; expected one of torch\.float32"):
        files.load(tmp_path)


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_may_be_tied_and_everything_learns(tied):
    net = recurra.LanguageModel(11, 8, "slstm+min-lstm", design={"tied": tied})
    tokens = torch.randint(0, 11, (2, 6))
    net(tokens)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert any("head" in name for name, _ in net.named_parameters()) != tied


def test_an_embedding_that_asks_for_gradients_gets_them():
    """As adapters are trained with activations computed again: all weights stand still, and a hook lets x move."""
    net = model().requires_grad_(False)
    net.embedding.register_forward_hook(lambda _module, _given, rows: rows.requires_grad_())
    assert net(torch.randint(0, 11, (2, 5)))[0].requires_grad


def test_a_tied_head_reads_the_weight_and_not_what_is_around_it():
    net = model(design={"tied": True})
    tokens = torch.randint(0, 11, (2, 5))
    twin = copy.deepcopy(net)
    net.embedding = torch.nn.Sequential(net.embedding)
    with pytest.raises(InputError, match=r"embedding is a Sequential, whose weight is no tensor.*tied"):
        net(tokens)
    net.embedding.weight = twin.embedding.weight
    assert_close("logits", net(tokens)[0], twin(tokens)[0])


def test_a_head_of_another_type():
    """The logits have the type of the head, whichever way a token goes."""
    net = model("min-gru").bfloat16()
    net.head.float()
    tokens = torch.randint(0, 11, (1, 5))
    logits, state = net(tokens[:, :4])
    with torch.no_grad():
        last, _ = net.advance(tokens[:, 4], state)
    assert logits.dtype is last.dtype is net.stream().logits.dtype is torch.float32
    assert_close("logits of one token", last, net(tokens, engine="loop")[0][:, -1], torch.bfloat16)
