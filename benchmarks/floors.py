"""What a training step cannot do without, timed beside it, by the fastest way known on the machine: its matrix
products, and the exponentials of its gates and decays, each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.measure import Row, Work, in_turn, median, timed
from recurra.engines import products

TOPIC = "Floors of training steps"


@dataclass(frozen=True)
class Product:
    """[count, m, k] by [count, k, n], as a linear map of m vectors does forward."""

    m: int
    k: int
    n: int
    count: int = 1

    @property
    def operations(self) -> int:
        """Of a training step: once forward, and twice backward, for the gradients of both factors."""
        return 6 * self.count * self.m * self.k * self.n


def floor(row: Row, ours: Work, maps: Sequence[Product], exponentials: int = 0) -> Row:
    """The row of a step's floor, beside the row that compares the step with a peer.

    Args:
        maps: forward; both gradients are added here.
        exponentials: of numbers, forward; what is kept of them will do for the way back.
    """
    work = [_training(product) for product in maps]
    numbers = torch.randn(exponentials)
    out = torch.empty_like(numbers)

    def unavoidable() -> None:
        for step in work:
            step()
        torch.exp(numbers, out=out)

    pairs = in_turn(ours, unavoidable, 7)
    ours_ms, floor_ms = (median(list(times)) for times in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    what = f"{sum(p.operations for p in maps) / 1e9:.1f} GFLOP of products"
    what += f", {exponentials / 1e6:.0f} million exponentials" if exponentials else ""
    asked = "" if row.peer_ms is None else f"{row.peer_ms / float(row.target.split()[1]):.1f} ms are asked for"
    name = f"{row.name} against {row.peer}"
    return Row(TOPIC, name, ours_ms, what, floor_ms, "", ours_ms / floor_ms, None, (min(ratios), max(ratios)), asked)


def _training(product: Product) -> Work:
    """The product forward and those of both gradients, each by the fastest way there is."""
    x, w, y = (
        torch.randn(product.count, *shape)
        for shape in ((product.m, product.k), (product.k, product.n), (product.m, product.n))
    )
    fastest = [_fastest(a, b) for a, b in ((x, w), (y, w.mT), (x.mT, y))]

    def step() -> None:
        for work in fastest:
            work()

    return step


def _fastest(a: torch.Tensor, b: torch.Tensor) -> Work:
    """Of PyTorch's product and oneDNN's, which takes [M, K] and, as a weight, [N, K]."""
    out = torch.empty(a.shape[0], a.shape[1], b.shape[2])
    outer = not a.is_contiguous()

    def by_torch() -> None:
        torch.bmm(a, b, out=out)

    def by_onednn() -> None:
        for i in range(len(a)):
            if outer:
                products.compiled_outer(a[i].mT, b[i])
            else:
                products.by_onednn(a[i], b[i].mT)

    ways = [by_torch, by_onednn] if products.has_onednn() else [by_torch]
    return min(ways, key=lambda way: min(timed(way) for _ in range(3)))
