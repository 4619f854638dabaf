"""Models that grow, averaged and dropped weights, sampled classes, recalled tokens: each against its definition."""

import math

import pytest
import torch
from torch import nn

import recurra
from recurra.errors import InputError
from recurra.models.backbone import Backbone
from recurra.models.growing import grown
from recurra.models.recalling import Recalling
from recurra.nn.sampled import SampledSoftmax
from recurra.nn.weight_drop import weight_drop
from recurra.testing.tolerances import assert_close
from recurra.training.averaging import Averaged, Trigger
from recurra.training.fitting import Schedule, clip


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("mlp", [0, None])
def test_a_grown_backbone_gives_what_it_gave_and_every_block_learns(bidirectional, mlp):
    small = Backbone(8, "gru", mlp=mlp, bidirectional=bidirectional).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    large = grown(grown(small, "gru*2"), "gru*2+mamba")
    assert len(large.blocks) == 3
    assert_close("grown", large(x)[0], small(x)[0])
    for _ in range(2):  # the maps behind the new layers first, then the layers
        large.zero_grad()
        large(x)[0].square().sum().backward()
        with torch.no_grad():
            for p in large.parameters():
                p -= 0.1 * p.grad
    assert all(p.grad.any() for block in large.blocks for p in block.recurrence.parameters())
    assert not torch.equal(large(x)[0], small(x)[0])


def test_a_grown_language_model_is_saved_and_streams(tmp_path):
    from recurra.models.files import save

    small = recurra.LanguageModel(11, 8, "min-gru")
    large = grown(small, "min-gru+gru").eval()
    tokens = torch.randint(11, (1, 6))
    assert_close("grown", large(tokens)[0], small(tokens)[0])
    save(large, tmp_path)
    again = recurra.load(tmp_path)
    _, state = again(tokens[:, :4])
    assert_close("loaded", again(tokens[:, 4:], state)[0], large(tokens)[0][:, 4:])
    with pytest.raises(InputError, match="pattern is 'gru\\*2'; expected one that begins with 'min-gru'"):
        grown(small, "gru*2")


def test_the_trigger_is_the_rule():
    losses, patience = torch.rand(40).tolist(), 4
    trigger, expected = Trigger(patience), False
    for n, loss in enumerate(losses):
        expected = expected or (n > patience and loss > min(losses[: n - patience]))
        assert trigger.tell(loss) == expected
    falling = Trigger(2)
    assert not any(falling.tell(1 / n) for n in range(1, 30))


def test_averaged_weights_are_the_mean_and_are_given_back():
    model = nn.Linear(3, 2)
    averaged, seen = Averaged(model), []
    with pytest.raises(InputError, match="no weights were counted"), averaged.applied():
        pass
    for _ in range(5):
        with torch.no_grad():
            model.weight += torch.randn(2, 3)
        averaged.update()
        seen.append(model.weight.detach().clone())
    with averaged.applied() as meant:
        assert_close("mean", meant.weight, torch.stack(seen).mean(0))
    assert torch.equal(model.weight, seen[-1])


def test_dropped_weights_are_the_same_at_all_steps_and_whole_in_evaluation():
    plain = recurra.layer("lstm", 4, hidden=6)
    dropped = weight_drop(recurra.layer("lstm", 4, hidden=6), 0.5)
    dropped.parametrizations.weight_hh_l0.original.data.copy_(plain.weight_hh_l0.data)
    for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
        getattr(dropped, name).data.copy_(getattr(plain, name).data)
    x = torch.randn(2, 7, 4)
    assert_close("evaluation", dropped.eval()(x)[0], plain(x)[0])
    dropped.train()
    torch.manual_seed(3)
    y, _ = dropped(x)
    torch.manual_seed(3)
    masked = dropped.weight_hh_l0.detach()
    share = (masked == 0).double().mean()
    assert 0.3 < share < 0.7
    plain.weight_hh_l0.data.copy_(masked)
    assert_close("one mask for all steps", y, plain(x)[0])
    assert not torch.equal(dropped(x)[0], y)
    with pytest.raises(InputError, match="names is"):
        weight_drop(nn.Linear(2, 2), 0.5)


def test_sampled_classes_estimate_the_whole_softmax():
    layer = SampledSoftmax(5, 9, 60_000, 1 + torch.arange(9).float()).double()
    x, target = torch.randn(4, 3, 5).double().requires_grad_(), torch.randint(-1, 9, (4, 3))
    whole = nn.functional.cross_entropy(layer(x).flatten(0, 1), target.flatten(), ignore_index=-1)
    (expected,) = torch.autograd.grad(whole, x)
    loss = layer.loss(x, target)
    (found,) = torch.autograd.grad(loss, x)
    assert float((loss - whole).detach().abs()) < 0.02
    assert float((found - expected).abs().max()) < 0.02
    few = SampledSoftmax(5, 9, 3)
    assert few.loss(x.float(), target).isfinite()
    assert not few.loss(x.float(), torch.full((4, 3), -1))


def test_recalled_tokens_by_hand_and_cut_anywhere():
    model = recurra.LanguageModel(7, 8, "gru").double().eval()
    recalling = Recalling(model, size=4, share=0.3, flatness=0.7)
    tokens = torch.randint(7, (2, 12))
    whole, _ = recalling(tokens)
    scores, hidden, _ = model.with_hidden_states(tokens)
    h, chances = hidden[-1], scores.softmax(-1)
    for b in range(2):
        for t in range(12):
            near = range(max(0, t - 4), t)
            expected = chances[b, t]
            if near:
                weights = torch.stack([0.7 * h[b, t] @ h[b, i] for i in near]).softmax(0)
                recalled = torch.zeros(7).double()
                for i, weight in zip(near, weights, strict=True):
                    recalled[tokens[b, i + 1]] += weight
                expected = 0.7 * expected + 0.3 * recalled
            assert_close(f"step {t}", whole[b, t].exp(), expected)
    for cuts in ([5, 7], [1] * 12, [0, 3, 9]):
        state, told = None, []
        for piece in tokens.split(cuts, 1):
            y, state = recalling(piece, state)
            told.append(y)
        assert_close(f"cut in {cuts}", torch.cat(told, 1), whole)


@pytest.mark.parametrize("how", ["together", "each", "number"])
def test_gradients_are_bounded(how):
    model = nn.Linear(5, 4)
    for p in model.parameters():
        p.grad = 3 * torch.randn_like(p)
    given = [p.grad.clone() for p in model.parameters()]
    clip(model, Schedule(clip=0.5, clipped=how))
    norm = math.sqrt(sum(float(g.square().sum()) for g in given))
    expected = {
        "together": [g * 0.5 / norm for g in given],
        "each": [g * 0.5 / g.norm() for g in given],
        "number": [g.clamp(-0.5, 0.5) for g in given],
    }[how]
    for p, g in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="clipped is 'all'"):
        Schedule(clipped="all")
