"""How many Newton iterations a layer takes while it learns to track a state: the parity of a stream of bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import recurra
from recurra.engines.newton import engine as newton

WIDTH, LONG = 64, 4096


def trained(name: str, steps: int, every: int = 25, seed: int = 0) -> list[dict[str, Any]]:
    """Train a small model on parity and count iterations on one sequence of 4096 as it goes.

    Returns:
        one record per `every` steps: step, loss, accuracy, iterations, residual, finished_by_loop.
    """
    torch.manual_seed(seed)
    embed, layer, head = nn.Embedding(2, WIDTH), recurra.layer(name, WIDTH), nn.Linear(WIDTH, 2)
    parameters = [*embed.parameters(), *layer.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    records = []
    for step in range(steps + 1):
        # Short sequences first: parity over long ones is not found by gradients from nothing.
        length = min(64, 2 + step // 4)
        bits = torch.randint(0, 2, (64, length))
        logits = head(layer(embed(bits))[0])
        parity = bits.cumsum(1) % 2
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), parity.flatten())
        if step % every == 0:
            accuracy = float((logits.argmax(-1) == parity).float().mean())
            records.append({"step": step, "loss": loss.item(), "accuracy": accuracy} | _iterations(embed, layer))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return records


def _iterations(embed: nn.Embedding, layer: recurra.Recurrence) -> dict[str, Any]:
    with torch.no_grad():
        x = embed(torch.randint(0, 2, (1, LONG)))
        solve = newton.run(layer.problem(x)).report["last_solve"]
    return {
        "iterations": solve.iterations,
        "residual": solve.residual,
        "finished_by_loop": solve.finished_by_loop,
    }
