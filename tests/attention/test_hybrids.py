"""Models that mix recurrences and attention: trained, streamed, saved, evaluated."""

import json
from itertools import pairwise

import pytest
import torch
from typer.testing import CliRunner

import recurra
from recurra.models.language_model import LanguageModel
from recurra.models.pattern import parse
from recurra.state import State
from recurra.streaming.session import Session
from recurra.testing.tolerances import assert_close
from recurra.training.carry import carried
from recurra.training.evaluate import STRIDE, bits_per_byte

TEXT = b"the quick brown fox jumps over the lazy dog. " * 4


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    net = LanguageModel(width=16, pattern="gated-delta-net+attention")
    optimiser, tokens = torch.optim.Adam(net.parameters(), 0.01), torch.tensor([list(TEXT[:91])])
    losses = []
    for _ in range(30):
        logits, _ = net(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    return net.eval()


def test_patterns():
    assert parse("gated-deltanet*3+attention") == ["gated-deltanet"] * 3 + ["attention"]
    assert type(recurra.layer("gated-deltanet", 8)) is type(recurra.layer("gated-delta-net", 8))
    griffin = LanguageModel(width=16, pattern="rg-lru*2+local-attention")
    assert [type(block.recurrence).__name__ for block in griffin.blocks] == ["RGLRU", "RGLRU", "LocalAttention"]


@torch.no_grad()
def test_streamed_logits_are_those_of_the_whole(trained):
    whole, end = trained(torch.tensor([list(TEXT)]))
    session = trained.stream()
    for t, token in enumerate(TEXT[:60]):
        assert_close(f"logits after token {t}", session.feed([token]), whole[0, t])
    session = trained.stream()
    for a, b in pairwise([0, 1, 50, 51, 120, len(TEXT)]):
        assert_close(f"logits after {b} tokens", session.feed(TEXT[a:b]), whole[0, b - 1])
    for name, value in end.items():
        assert_close(name, session.state[name], value)


def test_a_saved_session_gives_the_same_tokens(trained, tmp_path):
    session = trained.stream(seed=5)
    session.save(tmp_path / "new")
    assert Session.load(trained, tmp_path / "new").state["blocks.1.keys"].shape[2] == 0
    session.feed(TEXT[:20])
    list(session.generate(10))
    session.save(tmp_path / "session")
    expected = list(session.generate(30))
    assert list(Session.load(trained, tmp_path / "session").generate(30)) == expected


def test_sessions_of_other_models_are_refused(trained, tmp_path):
    session = trained.stream()
    session.feed(b"abc")
    session.save(tmp_path / "session")
    others = [
        "gated-delta-net",
        "gated-delta-net*2",
        "attention+gated-delta-net",
        "gated-delta-net+forgetting-attention",
    ]
    for pattern in others:
        with pytest.raises(recurra.InputError, match="another model"):
            Session.load(LanguageModel(width=16, pattern=pattern), tmp_path / "session")
    damaged = State.load(tmp_path / "session")
    damaged["model.blocks.1.position"] += 1
    damaged.save(tmp_path / "session")
    with pytest.raises(recurra.InputError, match="position"):
        Session.load(trained, tmp_path / "session")


@pytest.mark.parametrize(
    "pattern", ["min-gru+attention", "rg-lru+local-attention", "lstm+rat", "gla+forgetting-attention"]
)
def test_packed_and_padded(pattern):
    net, tokens = LanguageModel(vocabulary=11, width=8, pattern=pattern).double(), torch.randint(0, 11, (1, 40))
    resets = torch.zeros(1, 40, dtype=torch.bool)
    resets[0, 19] = True
    packed, end = net(tokens, resets=resets)
    alone, last = net(tokens[:, 19:])
    assert_close("second sequence", packed[:, 19:], alone)
    for name in last:
        assert_close(name, end[name], last[name])
    padded, _ = net(tokens, lengths=torch.tensor([33]))
    assert_close("valid part", padded[:, :33], net(tokens[:, :33])[0])


def test_from_window_to_window():
    net, tokens = (
        LanguageModel(width=8, pattern="min-gru+attention+local-attention"),
        torch.tensor([list(TEXT[:9])] * 2),
    )
    _, state = net(tokens)
    kept = carried(net, state, 2)
    assert kept["blocks.1.keys"].shape[2] == kept["blocks.1.position"].sum() == 0
    for name in kept:
        assert "blocks.1" in name or kept[name] is state[name]
    assert bits_per_byte(net, TEXT * (1 + 2 * STRIDE // len(TEXT))) > 0


def test_command_line(tmp_path):
    from recurra.cli.main import app

    (tmp_path / "text").write_bytes(TEXT * 20)
    text, run = str(tmp_path / "text"), str(tmp_path / "run")

    def recurra_(*args):
        result = CliRunner().invoke(app, args, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    small = ["--width", "16", "--mlp", "16", "--batch", "4", "--window", "16", "--steps", "4"]
    recurra_("train", "--data", text, "--out", run, "--pattern", "gated-deltanet+attention", *small)
    assert json.loads(recurra_("evaluate", run, "--data", text, "--json"))["bits_per_byte"] > 0
    saved = str(tmp_path / "session")
    assert recurra_("generate", run, "--prompt", "the ", "--count", "5", "--save", saved).startswith("the ")
    recurra_("generate", run, "--load", saved, "--count", "5")
    assert "parallel: always picked" in recurra_("explain", "forgetting-attention", "--width", "16", "--time", "8")
    assert "rat" in recurra_("layers", "--width", "16")
