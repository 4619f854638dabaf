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
