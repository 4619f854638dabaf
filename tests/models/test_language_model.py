"""The language model: patterns, packing, state, files."""

import pytest
import torch

import recurra
from recurra.models import files
from recurra.models.language_model import LanguageModel
from recurra.models.pattern import parse
from recurra.testing.tolerances import assert_close


def model(pattern="mamba+lstm"):
    return LanguageModel(vocabulary=11, width=8, pattern=pattern).eval()


def test_pattern():
    assert parse("mamba*3+lstm") == ["mamba", "mamba", "mamba", "lstm"]
    assert parse(" min-gru ") == ["min-gru"]


@pytest.mark.parametrize("bad", ["", "mamba**2", "mamba*0", "mamba+", "nope*2", "3*mamba", None])
def test_bad_pattern(bad):
    with pytest.raises(recurra.InputError):
        parse(bad)


def test_cut_and_advance_equal_the_whole():
    net, tokens = model(), torch.randint(0, 11, (2, 9))
    whole, end = net(tokens)
    first, state = net(tokens[:, :4])
    second, state = net(tokens[:, 4:8], state)
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
    padded, _ = net(tokens, lengths=torch.tensor([5]))
    assert_close("valid part", padded[:, :5], net(tokens[:, :5])[0])


@pytest.mark.parametrize(
    "tokens", [torch.zeros(3, dtype=torch.int64), torch.zeros(1, 3), torch.tensor([[11]]), torch.tensor([[-1]]), "text"]
)
def test_bad_tokens(tokens):
    with pytest.raises(recurra.InputError, match="tokens"):
        model()(tokens)


def test_files_round_trip(tmp_path):
    net, tokens = model(), torch.randint(0, 11, (1, 5))
    files.save(net, tmp_path)
    assert torch.equal(files.load(tmp_path)(tokens)[0], net(tokens)[0])


def test_files_that_are_not_a_model(tmp_path):
    with pytest.raises(recurra.InputError, match=r"config\.json"):
        files.load(tmp_path)
    files.save(model(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(recurra.InputError, match=r"model\.safetensors"):
        files.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(recurra.InputError, match=r"config\.json"):
        files.load(tmp_path)


def test_the_head_is_tied_and_everything_learns():
    net, tokens = model("slstm+min-lstm"), torch.randint(0, 11, (2, 6))
    net(tokens)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert not any("head" in name for name, _ in net.named_parameters())
