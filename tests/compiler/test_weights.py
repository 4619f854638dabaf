"""Recurrent matrices that are made of several weights, of a weight and the state, or of a weight and an input."""

import pytest
import torch
import torch.nn.functional as F

from recurra import Lane, Recurrence, constant
from recurra.engines import compiled
from recurra.testing.cases import draw, gradients
from recurra.testing.tolerances import assert_close

COMPOSITE = {
    "sum": lambda w, h, x: (w["W"] + w["V"]) @ h,
    "sum, of a function": lambda w, h, x: (w["W"] + w["V"]) @ torch.tanh(h),
    "two products": lambda w, h, x: w["W"] @ h + w["V"] @ h,
    "gain": lambda w, h, x: (w["gain"] * w["W"]) @ h,
    "from the left": lambda w, h, x: h @ (w["W"] * w["gain"] + w["V"]),
    "less a constant": lambda w, h, x: (w["W"] - 0.1 * torch.eye(len(h), dtype=h.dtype)) @ h,
    "linear": lambda w, h, x: F.linear(h, w["W"] + w["V"]),
    "low rank": lambda w, h, x: (w["W"] + w["B"] @ w["A"]) @ h,
    "masked": lambda w, h, x: (w["W"] * (w["V"] > 0)) @ h,
    "lower": lambda w, h, x: torch.tril(w["W"]) @ h,
    "symmetric": lambda w, h, x: (w["W"] + w["W"].T) @ h,
    "normalised": lambda w, h, x: (w["W"] / w["W"].norm(dim=1, keepdim=True)) @ h,
    "generated": lambda w, h, x: torch.tanh(torch.outer(w["B"][:, 0], w["A"][0])) @ h,
    "block": lambda w, h, x: torch.cat([w["W"][:2] + w["V"][:2], w["V"][2:]]) @ h,
    "twice": lambda w, h, x: (w["W"] + w["V"]) @ torch.tanh((w["W"] + w["V"]) @ h),
    "plus an outer product": lambda w, h, x: (w["W"] + 0.1 * torch.outer(x, h)) @ h,
    "times the state": lambda w, h, x: (w["W"] * h).sum(1),
    "times the input": lambda w, h, x: (w["W"] * x[:, None]) @ h,
    "beside one with the input": lambda w, h, x: w["W"] @ h + w["V"] @ x,
    "a sum that is read twice": lambda w, h, x: (w["W"] @ h + w["V"] @ x) * torch.sigmoid(w["W"] @ h),
    "of a product": lambda w, h, x: w["W"] @ torch.tanh(w["V"] @ x + w["W"] @ h),
}
"""How a product is made of weights W, V [n, n], A [2, n], B [n, 2] and gain [], the state h [n] and an input x [n]."""


def _weights(lanes, size):
    matrices = {"W": (size, size), "V": (size, size), "A": (2, size), "B": (size, 2), "gain": ()}
    drawn = {name: torch.randn((*lanes, *shape)) / max(shape, default=1) ** 0.5 for name, shape in matrices.items()}
    return torch.nn.ParameterDict(drawn)


class Whole(Recurrence):
    """One lane, which reads its parameters."""

    lane = Lane.LAYER

    def __init__(self, product, width=5):
        super().__init__(width)
        self.product, self.weights = product, _weights((), width)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        h = torch.tanh(COMPOSITE[self.product](self.weights, h, x) + x)
        return h, h


class Heads(Recurrence):
    """Three lanes, whose weights are constant inputs."""

    lane = Lane.HEAD

    def __init__(self, product, width=15):
        super().__init__(width)
        self.product, self.weights = product, _weights((3,), width // 3)

    def start(self):
        return {"h": torch.zeros(3, self.width // 3)}

    def inputs(self, x):
        return {"x": x.unflatten(-1, (3, -1))} | {name: constant(w) for name, w in self.weights.items()}

    def step(self, h, x, **weights):
        h = torch.tanh(COMPOSITE[self.product](weights, h, x) + x)
        return h, h


@pytest.mark.parametrize("kind", [Whole, Heads])
@pytest.mark.parametrize("product", COMPOSITE)
def test_composite_matrices(kind, product):
    for options in ({"lengths": True}, {"state": True, "resets": True}):
        case = draw(lambda: kind(product), torch.float64, 3, 9, **options)
        expected, got = gradients(case, "loop"), gradients(case, "compiled")
        for name, value in expected.items():
            assert_close(f"{product}: {name}", got[name], value)


READ = {
    "from the right": lambda w, h: w @ h,
    "from the left": lambda w, h: h @ w,
    "transposed": lambda w, h: w.T @ h,
    "linear": lambda w, h: F.linear(h, w),
    "a batch of one": lambda w, h: (h[None] @ w.T)[0],
    "of a function of the state": lambda w, h: F.linear(torch.sin(h), w),
    "einsum": lambda w, h: torch.einsum("ij,j->i", w, h),
    "twice": lambda w, h: F.linear(torch.tanh(w @ h), w),
}


@pytest.mark.parametrize("read", READ)
def test_gradients_of_matrices_are_taken_after_the_loop(read):
    """As one product over all time steps, however the step reads the matrix; not added up step by step."""

    class Cell(Whole):
        def step(self, h, x):
            h = torch.tanh(READ[read](self.weights["W"], h) + x)
            return h, h

    case = draw(lambda: Cell(None), torch.float64)
    plan = compiled.plan_of(case.layer.problem(case.x))
    assert (
        {outer.leaf for outer in plan.outers} == {name for name in plan.leaves if name.startswith("weight.")} != set()
    )
    expected, got = gradients(case, "loop"), gradients(case, "compiled")
    for name, value in expected.items():
        assert_close(f"{read}: {name}", got[name], value)


class Mapped(Heads):
    """A product with an input within the step."""

    def inputs(self, x):
        mapped = (x.abs() - 0.5).log() if self.product == "undefined" else x  # NaN where x is padding
        weights = {name: constant(self.weights[name]) for name in ("W", "V")}
        return {"x": mapped.unflatten(-1, (3, -1))} | weights

    def step(self, h, x, W, V):
        h = torch.tanh(V @ x + W @ h)
        return h, h


def test_products_share_what_their_gradients_are_made_of():
    """Of two products that are added up one sum is kept, and an input that is a factor is read where it lies."""
    plan = compiled.plan_of(Mapped("plain").problem(torch.randn(2, 4, 15, requires_grad=True)))
    assert [node.op for node in plan.kept.values()] == ["tanh"]
    factors = {(outer.left, outer.right) for outer in plan.outers}
    assert factors == {("left.0", "input.x"), ("left.0", "stored.h")}


def test_padding_of_a_factor_may_be_anything():
    """As if each sequence ran alone, to its end."""
    layer, lengths, x = Mapped("undefined", 48), [2, 5, 0], 1 + torch.rand(3, 5, 48)
    y, _ = layer(x, lengths=torch.tensor(lengths), engine="compiled")
    got = torch.autograd.grad(y.square().sum(), layer.weights["V"])[0]
    alone = [layer(x[i : i + 1, :length], engine="loop")[0].square().sum() for i, length in enumerate(lengths)]
    assert_close("V", got, torch.autograd.grad(sum(alone), layer.weights["V"])[0])
