"""Muon: its polynomial held to singular values, which weights it takes, and AdamW for the others."""

import pytest
import torch

import recurra
from recurra.compiler.targets import host
from recurra.training import muon
from recurra.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 7), (3, 7, 3), (1, 64, 1), (2, 33, 48), (0, 4, 4)])
@pytest.mark.parametrize("half", [False, True])
def test_singular_values_go_through_the_polynomial_and_directions_stay(shape, half, monkeypatch):
    monkeypatch.setattr(host, "has_bfloat16", lambda: half)
    matrices = (
        torch.randn(shape, dtype=torch.float64) * 10 ** torch.linspace(-3, 3, max(1, shape[0]))[: shape[0], None, None]
    )
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    a, b, c = muon.POLYNOMIAL
    for _ in range(muon.ROUNDS):
        s = a * s + b * s**3 + c * s**5
    found = orthogonal(matrices.float() if half else matrices)
    assert found.dtype == (torch.float32 if half else torch.float64)
    limit = 0.04 if half else 1e-9  # bfloat16 rounds at 1/256, three times two products
    torch.testing.assert_close(found.double(), u * s[:, None] @ v, rtol=0, atol=limit)


def test_a_matrix_of_zeros_asks_for_nothing():
    assert not orthogonal(torch.zeros(2, 3, 4)).any()


TAKEN = {
    "gru": {"weight_ih_l0", "weight_hh_l0"},
    "projected-lstm": {"weight_ih_l0", "weight_hh_l0", "weight_hr_l0", "join.weight"},
    "jordan": {"to_hidden.weight", "recurrent"},
    "mamba": {"to_inner.weight", "to_selection.weight", "to_dt.weight", "to_output.weight"},
}


@pytest.mark.parametrize("name", TAKEN)
def test_linear_maps_of_blocks_are_taken_and_nothing_else(name):
    options = {"projected-lstm": {"projection": 8}}
    model = recurra.LanguageModel(32, 16, name, mlp=8, layers={k: v for k, v in options.items() if k == name})
    names = {id(p): own for own, p in model.named_parameters()}
    maps, matrices, others = Muon(model, model.blocks, 0.1).param_groups
    taken = {names[id(p)].removeprefix("blocks.0.") for p in maps["params"]}
    assert {own.removeprefix("recurrence.") for own in taken} == TAKEN[name] | {"mlp_in.weight", "mlp_out.weight"}
    assert {"embedding.weight", "head.weight"} <= {names[id(p)] for p in matrices["params"]}
    assert [maps["weight_decay"], matrices["weight_decay"], others["weight_decay"]] == [0.1, 0.1, 0.0]
    assert sum(len(group["params"]) for group in (maps, matrices, others)) == len(names)


def test_other_weights_are_adamws_and_what_has_no_gradient_stays():
    model = recurra.LanguageModel(32, 16, "s4d+lstm", mlp=8)  # s4d: weights that are no maps, of two axes and three
    model.blocks[1].mlp_in.weight.requires_grad_(False)
    optimiser = Muon(model, model.blocks, 0.2)
    others = [p for group in optimiser.param_groups[1:] for p in group["params"]]
    theirs = {id(p): p.detach().clone() for p in others}
    former = {name: p.detach().clone() for name, p in model.named_parameters()}
    matrices, rest = ([theirs[id(p)] for p in group["params"]] for group in optimiser.param_groups[1:])
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.2}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.99)
    )
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.randn_like(p) if p.requires_grad else None
        for p in others:
            theirs[id(p)].grad = p.grad.clone()
        for group in (*optimiser.param_groups, *adamw.param_groups):
            group["lr"] = 1e-2
        optimiser.step()
        adamw.step()
    for p in others:
        torch.testing.assert_close(p.detach(), theirs[id(p)])
    for name, p in model.named_parameters():
        assert torch.equal(p, former[name]) == (not p.requires_grad), name
