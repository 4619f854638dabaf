"""Layers that are fed by a transformer: against what they say, in all forms, and what blocks share."""

import math

import pytest
import torch
from torch.nn.functional import gelu, rms_norm
from walks import other_ways

import recurra
from recurra.models import files
from recurra.models.backbone import Backbone
from recurra.models.fed import Adapted
from recurra.training.carry import carried

PATTERN = "min-gru+transformer@a>gru+transformer@b > min-gru|mlp+transformer@a>gru"
LAYERS = {
    "transformer@a": {"heads": 4, "key_heads": 2, "hidden": 7, "rank": 2, "attention_rank": 3},
    "transformer@b": {"rotary": 0.5},
    "gru": {"gain": 0.5},
}


def fed(**more):
    """A model none of whose weights is at a value that hides a mistake."""
    model = recurra.LanguageModel(31, 12, PATTERN, mlp=5, layers=LAYERS, **more).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tokens(*shape):
    return torch.randint(0, 31, shape)


def of_map(part, x):
    if isinstance(part, Adapted):
        return x @ (part.whole.weight + part.up.weight @ part.down.weight).T
    return x @ part.weight.T


def transformed(part, x, embedded):
    """What a transformer without positions gives, one head after another."""
    own = part.attention
    read = rms_norm(torch.cat([x, embedded], -1), [24], part.norm.weight, 1e-6)
    q, k, v = (of_map(m, read).unflatten(-1, (-1, own.size)) for m in (own.to_query, own.to_key, own.to_value))
    hidden, future = [], torch.ones(x.shape[1], x.shape[1]).triu(1) > 0
    for head in range(own.heads):
        key = head * own.key_heads // own.heads
        scores = torch.einsum("bik,bjk->bij", q[:, :, head], k[:, :, key]) / math.sqrt(own.size / 2)
        hidden.append(scores.masked_fill(future, -math.inf).softmax(-1) @ v[:, :, key])
    y = rms_norm(of_map(own.to_output, torch.cat(hidden, -1)), [12], part.inner_norm.weight, 1e-6)
    gate, value = of_map(part.mlp.to_hidden, y).chunk(2, -1)
    return of_map(part.mlp.to_output, gelu(gate) * value)


@torch.no_grad()
def test_what_a_block_computes():
    layers = {"transformer": LAYERS["transformer@a"]}
    model = recurra.LanguageModel(31, 12, "rnn+transformer>rnn", mlp=0, layers=layers).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    x = tokens(2, 9)
    _, (embedded, flow, last), _ = model.with_hidden_states(x)
    held = model.blocks[1].recurrence
    more = of_map(held.to_layer, transformed(held.transformer, flow, embedded))
    expected = flow + held.layer(rms_norm(flow + more, [12], held.norm.weight, 1e-6))[0]
    torch.testing.assert_close(last, model.norm(expected))


@torch.no_grad()
def test_whole_in_pieces_step_by_step_packed_and_padded():
    model, x = fed(), tokens(3, 11)
    expected, end = model(x)
    other_ways(model, x, expected, end)
    padded = model(x, lengths=torch.tensor([0, 5, 11]))[0]
    torch.testing.assert_close(padded[1, :5], expected[1, :5])
    torch.testing.assert_close(padded[2], expected[2])
    session = model.stream()
    session.feed(x[0, :6])
    greedy, seen = [], x[:1, :6]
    for _ in range(5):
        greedy.append(int(model(seen)[0][0, -1].argmax()))
        seen = torch.cat([seen, torch.tensor([greedy[-1:]])], 1)
    assert list(session.generate(5, temperature=0)) == greedy


@torch.no_grad()
def test_what_else_is_given_goes_to_the_layer():
    """Here the time elapsed; what is embedded is looked at once, and gives a model no input of that name."""
    model, x = recurra.LanguageModel(31, 12, "transformer>mamba", mlp=0).eval(), tokens(2, 5)
    assert model.beside == {"elapsed": False}
    expected, elapsed = model(x)[0], torch.ones(2, 5)
    torch.testing.assert_close(model(x, elapsed=elapsed)[0], expected)
    elapsed[0, 3] = 9
    other = model(x, elapsed=elapsed)[0]
    torch.testing.assert_close(other[1], expected[1])
    assert not torch.allclose(other[0, 3:], expected[0, 3:])


def test_blocks_share_all_but_their_adapters(tmp_path):
    """With one set of weights under one name, and others under another; also after a model was saved and read."""
    model = fed()
    files.save(model, tmp_path)
    again, x = recurra.load(tmp_path), tokens(2, 5)
    assert torch.equal(again(x)[0], model(x)[0])
    for one in (model, again):
        first, other, last = (one.blocks[i].recurrence.transformer for i in (1, 2, 3))
        own = {id(parameter) for parameter in first.parameters()}
        both = own & {id(parameter) for parameter in last.parameters()}
        assert len(own) - len(both) == 8  # two maps to each of queries, keys, values and what is hidden
        assert not own & {id(parameter) for parameter in other.parameters()}
    model(x)[0].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@torch.no_grad()
def test_adapters_begin_by_changing_nothing():
    model = recurra.LanguageModel(31, 12, "transformer@a>rnn", mlp=0, layers={"transformer@a": {"rank": 2}})
    x = tokens(2, 5)
    expected, adapted = model(x)[0], model.blocks[0].recurrence.transformer.mlp
    adapted.to_hidden = adapted.to_hidden.whole
    torch.testing.assert_close(model(x)[0], expected)


@torch.no_grad()
def test_training_begins_the_attention_afresh():
    """In each window, as all attention; what is fed by it remembers."""
    model = fed()
    state = model(tokens(2, 5))[1]
    kept, fresh = carried(model, state, 2), model.initial_state(2)
    for name, value in kept.items():
        expected = fresh if ".transformer." in name else state
        assert torch.equal(value, expected[name]), name


@torch.no_grad()
def test_in_bfloat16_what_was_embedded_may_be_float32():
    """Where what flows past the blocks is."""
    model, x = fed(design={"float32_residual": True}).bfloat16(), tokens(2, 5)
    assert model(x)[0].dtype == torch.bfloat16
    assert model.advance(x[:, 0])[0].isfinite().all()


@pytest.mark.parametrize(
    ("pattern", "layers", "words"),
    [
        ("gru>gru", {}, "is not NAME"),
        ("transformer", {}, "'transformer' is not known"),
        ("transformer@a>", {}, "is not NAME"),
        ("transformer>transformer>gru", {}, "is not NAME"),
        ("transformer>gru", {"transformer": {"heads": 5}}, "heads is 5.*24"),
        ("transformer>gru", {"transformer": {"rank": -1}}, "rank is -1"),
        ("transformer>gru", {"transformer": {"window": 3}}, "transformer was given.*window"),
        ("transformer@a>gru", {"transformer": {}}, r"layers names \['transformer'\]"),
        ("transformer>gru", {"gru": {"norm_at": "after"}}, "norm_at is 'after'"),
    ],
)
def test_what_is_wrong_is_said(pattern, layers, words):
    with pytest.raises(recurra.InputError, match=words):
        recurra.LanguageModel(31, 12, pattern, layers=layers)


def test_only_a_language_model_has_embeddings():
    with pytest.raises(recurra.InputError, match="only a LanguageModel"):
        Backbone(12, "transformer>gru")
    model = fed()
    with pytest.raises(recurra.InputError, match="was given 'embedded'"):
        model(tokens(1, 3), embedded=torch.zeros(1, 3, 12))
