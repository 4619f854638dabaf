"""Muon: steps of linear maps in which no direction is favoured, and AdamW for all other weights."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from recurra.compiler.targets import host

MAPS = ("weight_ih", "weight_hh", "weight_hr", "recurrent")
"""How parameters begin that are matrices of linear maps, where a layer holds them without a `Linear`."""
MOMENTUM = 0.95
POLYNOMIAL = 3.4445, -4.7750, 2.0315
"""Of x, x^3 and x^5: repeated, it brings numbers in (0, 1] near 1, fast rather than closely."""
ROUNDS = 3
"""How often. Five are usual; three leave small singular values smaller, and models learned as much in as many steps, of
which there are more in the same time."""
SIZE = 0.2
"""The root mean square of a step's numbers at learning rate 1: about that of AdamW's, so that one rate suits both."""


class Muon(torch.optim.AdamW):
    """AdamW, but for the matrices of the linear maps of a model's blocks. Their step is the momentum of their gradients
    with all its singular values brought near 1: what many bytes ask for and what few do is learned at one pace.

    Weight decay is for matrices only. Matrices of one shape go through the products together, in bfloat16 where the
    processor has products for it.

    Source: Muon: An optimizer for hidden layers in neural networks, Jordan et al., 2024, and for the size of steps,
    Muon is Scalable for LLM Training, Liu et al., 2025, arXiv:2502.16982.
    """

    def __init__(self, model: nn.Module, blocks: nn.Module, decay: float):
        maps = _maps(blocks)
        known = {id(p) for p in maps}
        rest = [p for p in model.parameters() if id(p) not in known]
        groups: list[dict[str, Any]] = [
            {"params": maps, "weight_decay": decay, "keeps": ("step", "momentum")},
            {"params": [p for p in rest if p.dim() >= 2], "weight_decay": decay},
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        ]
        super().__init__(groups, betas=(0.9, 0.99), fused=all(p.is_floating_point() for p in rest))

    def step(self, closure: Any = None) -> Any:
        """One step of every weight that has a gradient."""
        groups = self.param_groups
        self.param_groups = groups[1:]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        self._step_maps(groups[0])
        return loss

    @torch.no_grad()
    def _step_maps(self, group: dict[str, Any]) -> None:
        alike: dict[Any, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                alike[p.shape, p.dtype].append((p, self._ahead(p, p.grad)))
        for (shape, _), found in alike.items():
            directions = orthogonal(torch.stack([ahead for _, ahead in found]))
            for (p, _), direction in zip(found, directions, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(direction, alpha=-group["lr"] * SIZE * max(shape) ** 0.5)

    def _ahead(self, p: Tensor, grad: Tensor) -> Tensor:
        """The momentum of gradients, and a step of it further, as Nesterov's."""
        kept = self.state[p]
        if not kept:  # AdamW expects a count when it is loaded
            kept |= {"step": torch.zeros(()), "momentum": torch.zeros_like(p)}
        kept["step"] += 1
        kept["momentum"].lerp_(grad, 1 - MOMENTUM)
        return torch.lerp(grad, kept["momentum"], MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """[N, R, C] to the same with singular values near 1, their directions kept."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=1e-7)
    x = x.to(torch.bfloat16 if host.has_bfloat16() else matrices.dtype)
    of_x, of_cube, of_fifth = POLYNOMIAL
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=of_cube, alpha=of_fifth), x, beta=of_x)
    return x.to(matrices.dtype)


def _maps(blocks: nn.Module) -> list[nn.Parameter]:
    """Matrices of linear maps."""
    linear = {id(module.weight) for module in blocks.modules() if isinstance(module, nn.Linear)}
    return [
        p
        for name, p in blocks.named_parameters()
        if p.dim() == 2 and p.is_floating_point() and (id(p) in linear or name.rpartition(".")[2].startswith(MAPS))
    ]
