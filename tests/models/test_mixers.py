"""Blocks of several layers, of channel mixers, and of layers that stand in several places: against what they say."""

import pytest
import torch
from walks import other_ways

import recurra
from recurra.models import files
from recurra.models.backbone import Backbone
from recurra.models.mixers import Experts
from recurra.models.pattern import kinds, parse

PATTERN = "mamba2|attention*2+mlp+experts|mlp@own+gru@late+mlp@own"
LAYERS = {
    "attention": {"gain": 0.5},
    "mlp@own": {"gated": False, "activation": "relu-squared", "output_gate": True},
    "experts": {"groups": 4, "active_groups": 2, "correction": True, "score": "sigmoid", "latent": 5},
    "gru@late": {"norm_at": "after", "gain": -0.7},
    "mlp": {"norm_at": "around", "gate_scale": 0.3, "bias": True},
}


def hybrid():
    torch.manual_seed(0)
    return recurra.LanguageModel(31, 16, PATTERN, mlp=0, layers=LAYERS, design={"head_scale": 0.2}).eval()


def test_patterns():
    assert parse(" mamba | attention@x *2 + mlp") == ["mamba|attention@x", "mamba|attention@x", "mlp"]
    assert kinds("mamba|attention@x+mlp+attention@y") == {"mamba", "attention"}


@torch.no_grad()
def test_whole_in_pieces_and_step_by_step():
    model, x = hybrid(), torch.randint(0, 31, (3, 11))
    expected, end = model(x)
    other_ways(model, x, expected, end)


@torch.no_grad()
@pytest.mark.parametrize("place", ["before", "after", "around", "both"])
def test_each_place_of_the_norm(place):
    net = Backbone(6, "gru", mlp=0, layers={"gru": {"norm_at": place, "gain": 2.0, "keep": 0.3}})
    x, norm, gru = torch.randn(2, 5, 6), net.blocks[0].recurrence_norm, net.blocks[0].recurrence.layers[0]
    flow = norm(x) if place == "around" else x
    added = norm(2 * gru(x)[0]) if place == "after" else 2 * gru(norm(x))[0]
    if place == "both":
        net.blocks[0].norm_behind.weight.normal_()
        added = net.blocks[0].norm_behind(added)
    torch.testing.assert_close(net(x)[0], net.norm(0.3 * flow + added))


def test_one_layer_in_two_places(tmp_path):
    """Has one set of weights, whose gradient is the sum, and is one again when the model is read."""
    model = hybrid()
    assert model.blocks[3].recurrence.layers[1] is model.blocks[5].recurrence
    model.blocks[5].recurrence.to_hidden.weight.data.normal_()
    x = torch.randint(0, 31, (2, 5))
    files.save(model, tmp_path / "saved")
    again = recurra.load(tmp_path / "saved")
    assert again.blocks[3].recurrence.layers[1].to_hidden.weight is again.blocks[5].recurrence.to_hidden.weight
    assert torch.equal(again(x)[0], model(x)[0])


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"active": 8},
        {"active": 3, "normalised": False, "scale": 1.7},
        {"active": 1, "gated": False, "activation": "gelu"},
        {"score": "sigmoid", "correction": True, "groups": 4, "active_groups": 2, "active": 3, "latent": 3},
    ],
)
def test_experts_chosen_one_time_step_at_a_time(options):
    """Written out for each time step, with the chosen experts only; another one, be it infinite, says nothing."""
    layer = Experts(5, 7, 8, **options)
    if layer.correction is not None:
        layer.correction.normal_()
    for x in torch.randn(20, 5):
        scores = layer.to_scores(x)
        scores = scores.softmax(-1) if layer.score == "softmax" else scores.sigmoid()
        rank = scores.clone() if layer.correction is None else scores + layer.correction
        if layer.groups > 1:
            best = [sum(sorted(group.tolist())[-2:]) for group in rank.split(8 // layer.groups)]
            for worst in sorted(range(layer.groups), key=best.__getitem__)[: -layer.active_groups]:
                rank[worst * 2 : worst * 2 + 2] = float("-inf")
        chosen = sorted(range(8), key=rank.tolist().__getitem__)[-layer.active :]
        weights = scores[chosen] / (scores[chosen].sum() if layer.normalised else 1) * layer.scale
        read = x if layer.to_latent is None else layer.to_latent(x)
        expected = torch.zeros_like(read)
        for weight, e in zip(weights, chosen, strict=True):
            hidden = layer.to_hidden[e] @ read
            gate, value = hidden.chunk(2) if layer.gated else (hidden, 1)
            expected += weight * (layer.to_output[e] @ (layer.activate(gate) * value))
        expected = expected if layer.from_latent is None else layer.from_latent(expected)
        torch.testing.assert_close(layer(x[None, None])[0][0, 0], expected)
        for e in set(range(8)) - set(chosen):
            kept = layer.to_output[e].clone()
            layer.to_output[e] = float("inf")
            assert layer(x[None, None])[0].isfinite().all()
            layer.to_output[e] = kept


@pytest.mark.parametrize(
    ("pattern", "layers", "words"),
    [
        ("mamba|", {}, r"NAME\|NAME"),
        ("mamba||lstm", {}, r"NAME\|NAME"),
        ("mamba|nothing", {}, "'nothing' is not known"),
        ("mlp@", {}, "is not NAME"),
        ("experts", {"experts": {"active": 9}}, "active is 9"),
        ("experts", {"experts": {"active": 3, "groups": 4}}, "1 of 4 groups hold fewer of 8"),
        ("mlp", {"mlp": {"hiden": 3}}, "hiden"),
        ("mlp", {"mlp": {"norm_at": "behind"}}, "norm_at is 'behind'"),
        ("mlp", {"mlp": {"gain": float("nan")}}, "gain is nan"),
        ("mamba|gru", {"gru": {"norm_at": "after"}}, "differ in norm_at or keep"),
        ("gru|rnn", {"gru": {"hidden": 7}}, r"give \[7, 6\] channels"),
        ("mlp@x", {"mlp": {}}, r"layers names \['mlp'\]"),
    ],
)
def test_what_is_wrong_is_said(pattern, layers, words):
    with pytest.raises(recurra.InputError, match=words):
        Backbone(6, pattern, layers=layers)
