"""The blocks in the middle of every model: cut, packed and padded as a layer is, and the language model is a case."""

import pytest
import torch
from torch import nn

import recurra
from recurra.errors import InputError
from recurra.models import files
from recurra.models.backbone import Backbone
from recurra.testing.tolerances import assert_close

FORMER = {
    "gru+mamba": ([3.1811110973, 2.5624074936, 1.9797223806, 1.5326938629, 1.1727261543], {"dropout": 0.1}),
    "lstm*2+attention": (
        [0.4694016874, 0.3455370069, 0.2949927449, 0.2611705065, 0.2328683734],
        {"design": {"tied": True, "norm": "layer", "embedding_norm": True, "soft_cap": 5.0}},
    ),
}
"""Losses of five steps of training, as they were when the language model had blocks of its own."""


@pytest.mark.parametrize("layers", [{"projected-lstm": {"projection": 3}}, {"lstm": {"hidden": 12, "num_layers": 2}}])
def test_a_layer_may_give_other_channels_than_it_takes(layers, tmp_path):
    """A linear map brings them back, in files as well, whose outline has no memory."""
    pattern = f"{next(iter(layers))}*2+gru"
    model = recurra.LanguageModel(16, 8, pattern, layers=layers).eval()
    assert [block.join is not None for block in model.blocks] == [True, True, False]
    files.save(model, tmp_path)
    tokens = torch.randint(16, (2, 5))
    whole = model(tokens)[0]
    assert torch.equal(files.load(tmp_path)(tokens)[0], whole)
    with torch.no_grad():
        logits, state = model.advance(tokens[:1, 0])
        logits, state = model.advance(tokens[:1, 1], state)
    torch.testing.assert_close(logits, whole[:1, 1])


@pytest.mark.parametrize("pattern", FORMER)
def test_the_language_model_is_what_it_was(pattern):
    """The same names in the same order, the same dice, the same steps of training."""
    losses, options = FORMER[pattern]
    torch.manual_seed(3)
    model = recurra.LanguageModel(17, 24, pattern, **options)
    names = ("embedding", "embedding_norm", "blocks", "norm", "head")
    assert list(model._modules) == [name for name in names if name in model._modules]
    assert list(model.config) == ["vocabulary", "width", "pattern", "mlp", "dropout", "layers", "design"]
    for block in model.blocks:  # which drew the dice of PyTorch's dropout then
        block.dropout = nn.Dropout(block.dropout.p)
    tokens = torch.randint(17, (3, 12))
    torch.rand(3, 12)
    for options in ({"resets": torch.zeros(3, 12, dtype=torch.bool)}, {"lengths": torch.tensor([12, 5, 0])}):
        model(tokens, **options)
    optimiser, state, found = torch.optim.AdamW(model.parameters(), lr=1e-2), None, []
    for _ in losses:
        logits, state = model(tokens, state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        state = state.detach()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        found.append(loss.detach())
    assert_close("losses", torch.stack(found), torch.tensor(losses))


@pytest.mark.parametrize("pattern", ["gru+mamba", "slstm+local-attention", "min-gru"])
def test_cut_single_steps_packed_and_padded(pattern):
    net, x = Backbone(8, pattern).eval(), torch.randn(2, 9, 8)
    whole, end = net(x)
    first, state = net(x[:, :4])
    second, state = net(x[:, 4:8], state)
    last, state = net.advance(x[:, 8], state)
    assert_close("cut", torch.cat([first, second, last[:, None]], 1), whole)
    assert list(state) == list(end) == list(net.initial_state(2))
    resets = torch.zeros(2, 9, dtype=torch.bool)
    resets[:, 3] = True
    assert_close("packed", net(x, resets=resets)[0][:, 3:], net(x[:, 3:])[0])
    with torch.no_grad():  # one sequence without gradients is one kernel
        y, state = net.advance(x[:1, 0])
        assert_close("one kernel", torch.stack([y, net.advance(x[:1, 1], state)[0]], 1), whole[:1, :2])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_what_lies_in_the_padding_reaches_nothing(bidirectional):
    net, x = Backbone(8, "gru+rg-lru", bidirectional=bidirectional), torch.randn(3, 7, 8)
    lengths = torch.tensor([7, 4, 0])
    spoilt = x.clone()
    spoilt[1, 4:], spoilt[2] = float("nan"), float("inf")
    grads = []
    for given in (x, spoilt):
        y, _ = net(given, lengths=lengths)
        net.zero_grad()
        y.square().sum().backward()
        grads.append([p.grad for p in net.parameters()])
        assert_close("alone", y[1, :4], net(x[1:2, :4])[0][0])
        assert not y[1, 4:].any()
        assert not y[2].any()
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


def test_both_directions_read_each_packed_sequence_alone():
    net, x = Backbone(8, "lstm+min-gru", bidirectional=True), torch.randn(1, 9, 8)
    resets = torch.zeros(1, 9, dtype=torch.bool)
    resets[0, [0, 4]] = True
    packed, state = net(x, resets=resets)
    assert_close("packed", packed, torch.cat([net(x[:, :4])[0], net(x[:, 4:])[0]], 1))
    moved = x.clone()
    moved[0, 3] += 1
    assert (net(moved, resets=resets)[0][0, 0] != packed[0, 0]).any()  # the first step has seen the last
    with pytest.raises(InputError, match="bidirectional"):
        net(x, state)
    with pytest.raises(InputError, match="whole sequence"):
        net.advance(x[:, 0])


def test_half_types_with_a_residual_in_float32():
    net = Backbone(8, "gru", design={"float32_residual": True, "norm": "layer"}).bfloat16()
    y, _ = net(torch.randn(2, 3, 8).bfloat16())
    assert y.dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"mlp": -1}, "mlp is -1"),
        ({"bidirectional": 1}, "bidirectional is 1"),
        ({"layers": {"gru": {"bidirectional": True}}}, "bidirectional"),
        ({"pattern": "grue"}, "not known"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        Backbone(**{"width": 8, "pattern": "gru"} | options)


def test_bad_input():
    net = Backbone(8, "gru")
    with pytest.raises(InputError, match=r"\[B, T, 8\]"):
        net(torch.randn(2, 3, 7))
    with pytest.raises(InputError, match="blocks"):
        net(torch.randn(1, 3, 8), {"h": torch.zeros(1, 8)})
