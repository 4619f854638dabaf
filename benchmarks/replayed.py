"""Steps that are replayed, against the loop over batched operations that one would write by hand in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.measure import Row, compare
from recurra import Lane, Recurrence, constant


class Cell(Recurrence):
    """One lane; `by_hand` is the step of a whole batch."""

    lane = Lane.LAYER

    def __init__(self, width: int):
        super().__init__(width)
        self.weight = nn.Parameter(torch.randn(width, width) / width**0.5)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}

    def by_hand(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class Gamma(Cell):
    """Elman's network with a saturation by the logarithm of the gamma function."""

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.weight @ h + x)
        return h, torch.lgamma(1.5 + h)

    def by_hand(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(torch.addmm(x, h, self.weight.t()))
        return h, torch.lgamma(1.5 + h)


class Quantile(Cell):
    """Elman's network, shifted by a quantile of its state."""

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.weight @ h + x)
        return h - torch.quantile(h, 0.3), torch.special.i0(h)

    def by_hand(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(torch.addmm(x, h, self.weight.t()))
        return h - torch.quantile(h, 0.3, 1, keepdim=True), torch.special.i0(h)


class Matrix(Cell):
    """A matrix of the size [side, side] made of the state."""

    side = 8

    def made(self, h: Tensor) -> Tensor:
        eye = torch.eye(self.side, dtype=h.dtype)
        part = h[..., : self.side]
        return eye + 0.1 * part[..., :, None] * h[..., None, -self.side :]


class Spectrum(Matrix):
    """Reads the singular values of a matrix."""

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.weight @ h + x)
        return h, torch.linalg.svdvals(self.made(h))

    def by_hand(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(torch.addmm(x, h, self.weight.t()))
        return h, torch.linalg.svdvals(self.made(h))


class Solved(Matrix):
    """Solves a system of twenty equations."""

    side = 20

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.weight @ h + x)
        return h, torch.linalg.solve(self.made(h), x[: self.side])

    def by_hand(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(torch.addmm(x, h, self.weight.t()))
        return h, torch.linalg.solve(self.made(h), x[:, : self.side])


class Kalman(Recurrence):
    """A Kalman filter in square roots: the spread [N, N] goes through `qr`, the gain through `pinv`."""

    lane = Lane.LAYER
    size = 6

    def __init__(self, width: int):
        super().__init__(width)
        self.to_seen = nn.Linear(width, self.size)
        self.motion = nn.Parameter(0.9 * torch.eye(self.size) + 0.05 * torch.randn(self.size, self.size))
        self.noise = nn.Parameter(0.3 * torch.eye(self.size))

    def start(self) -> dict[str, Tensor]:
        return {"m": torch.zeros(self.size), "L": torch.eye(self.size)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": self.to_seen(x)}

    def step(self, m: Tensor, L: Tensor, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        m = self.motion @ m
        L = torch.linalg.qr(torch.cat([(self.motion @ L).mT, self.noise.mT]))[1].mT
        P = L @ L.mT
        gain = P @ torch.linalg.pinv(P + torch.eye(self.size, dtype=P.dtype))
        m = m + gain @ (x - m)
        return (m, (torch.eye(self.size, dtype=P.dtype) - gain) @ L), m

    def by_hand(self, m: Tensor, L: Tensor, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        m = m @ self.motion.t()
        eye = torch.eye(self.size, dtype=L.dtype)
        L = torch.linalg.qr(torch.cat([(self.motion @ L).mT, self.noise.mT.expand(len(L), -1, -1)], 1))[1].mT
        P = L @ L.mT
        gain = P @ torch.linalg.pinv(P + eye)
        m = m + (gain @ (x - m)[..., None])[..., 0]
        return (m, (eye - gain) @ L), m


class Heads(Recurrence):
    """Elman networks side by side, each with its own weights, and a saturation as above."""

    lane = Lane.HEAD
    heads = 4

    def __init__(self, width: int):
        super().__init__(width)
        size = width // self.heads
        self.weight = nn.Parameter(torch.randn(self.heads, size, size) / size**0.5)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.heads, self.width // self.heads)}

    def inputs(self, x: Tensor) -> dict[str, object]:
        return {"x": x.unflatten(-1, (self.heads, -1)), "weight": constant(self.weight)}

    def step(self, h: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(weight @ h + x)
        return h, torch.lgamma(1.5 + h)

    def by_hand(self, h: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(torch.einsum("lij,blj->bli", weight, h) + x)
        return h, torch.lgamma(1.5 + h)


KINDS: tuple[type, ...] = (Gamma, Quantile, Spectrum, Solved, Kalman, Heads)


def by_hand(layer: Recurrence, x: Tensor) -> Tensor:
    """The loop in place of the layer: all sequences at once, a step after the other."""
    state = tuple(value.expand(len(x), *value.shape) for value in layer.start().values())
    given = layer.inputs(x)
    still = {name: entry.tensor for name, entry in given.items() if not isinstance(entry, Tensor)}
    moving = {name: entry.unbind(1) for name, entry in given.items() if isinstance(entry, Tensor)}
    outputs = []
    for t in range(x.shape[1]):
        after, y = layer.by_hand(*state, **{name: values[t] for name, values in moving.items()}, **still)
        state = after if isinstance(after, tuple) else (after,)
        outputs.append(y)
    return torch.stack(outputs, 1)


def rows(small: bool = False) -> Iterator[Row]:
    """Forward and backward, one row for each kind of step."""
    batch, time, width = (2, 8, 24) if small else (8, 256, 64)
    for kind in KINDS:
        layer, x = kind(width), torch.randn(batch, time, width, requires_grad=True)

        def trained(run: Callable[[Tensor], Tensor], layer: Recurrence = layer, x: Tensor = x) -> Callable[[], object]:
            wanted = [x, *layer.parameters()]
            return lambda: torch.autograd.grad(run(x).square().sum(), wanted)

        ours = trained(lambda x, layer=layer: layer(x, engine="replay")[0])
        peer = trained(lambda x, layer=layer: by_hand(layer, x))
        name = f"{kind.__name__} ({batch}, {time}, {width})"
        yield compare("Replayed calls", name, ours, "batched loop by hand", peer, ">= 1", repeats=5)
