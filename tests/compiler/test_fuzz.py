"""Random steps, held on the compiled engine to the reference: values and every gradient."""

import random

import pytest
import torch
from cells import operations

from recurra import Lane, Recurrence, constant, shared
from recurra.testing.cases import draw, gradients
from recurra.testing.tolerances import assert_close

pytestmark = pytest.mark.filterwarnings("ignore")  # of operations that PyTorch would rather not have, or not mapped
UNARY = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "neg": torch.neg,
    "sin": torch.sin,
    "cos": torch.cos,
    "exp": lambda x: torch.exp(torch.clamp(x, max=1.0)),
    "log": lambda x: torch.log(x * x + 1),
    "sqrt": lambda x: torch.sqrt(x * x + 0.5),
    "softplus": torch.nn.functional.softplus,
    "erf": torch.erf,
    "log1p": lambda x: torch.log1p(x * x),
    "expm1": lambda x: torch.expm1(-x * x),
    "abs": torch.abs,
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "square": torch.square,
}
BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda a, b: a / (b * b + 1),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where": lambda a, b: torch.where(a > b, a, 0.5 * b),
    "gate": lambda a, b: b + torch.sigmoid(a) * (a - b),
}
VECTOR = {
    "flip": lambda x: x.flip(0),
    "roll": lambda x: torch.cat([x[1:], x[:1]]),
    "softmax": lambda x: torch.softmax(x, 0),
    "centre": lambda x: x - x.mean(),
    "chunk": lambda x: torch.cat(x.chunk(2)[::-1]) if x.shape[0] > 1 else x,
    "peak": lambda x: x / (1 + x.abs().amax()),
    "stretch": lambda x: (x[:, None] * x[None, :]).sum(1),
}
MATRIX = {
    "plain": lambda w, v, a: w @ a,
    "sum": lambda w, v, a: (w + v) @ a,
    "scaled": lambda w, v, a: (v.mean() * w) @ a,
    "masked": lambda w, v, a: torch.tril(w) @ a,
    "low rank": lambda w, v, a: (w + v[:, :1] @ v[:1]) @ a,
    "columns": lambda w, v, a: (w * a).sum(1),
    "fast": lambda w, v, a: (w + torch.outer(torch.tanh(a), v[0])) @ a,
    "turned": lambda w, v, a: a @ (w - v),
    "normalised": lambda w, v, a: torch.softmax(w, 1) @ a,
}
UNMAPPED = {
    "h // 0.7",
    "1.5 % (x * x + 1)",
    "torch.floor_divide(h, 0.7)",
    "torch.heaviside(h, x)",
    "torch.column_stack([h, x])",
    "torch.select_scatter(a, x[:3], 0, 1)",
    "torch.chain_matmul(a, m)",
    "F.silu(z)",
    "torch.float_power(h * h + 1, 1.5).to(h.dtype)",
    "z.to(torch.complex128).to(z.dtype)",
}
"""What has no gradient in PyTorch; what its vmap, by which the reference runs, cannot map or gets wrong; and what is in
float64 whatever comes in, which is refused to a step in float32."""
OPERATIONS = [
    row["operation"]
    for row in operations.rows()
    if row["outcome"] == "compiled" and row["group"] not in ("modules", "in place") and row["operation"] not in UNMAPPED
]
"""On two vectors of six numbers."""


def fit(x, size):
    """The numbers of a vector, over and over, as many as asked for."""
    return x.repeat(-(-size // x.shape[0]))[:size]


def operated(operation, a, c):
    """An operation on numbers that are neither large nor alike, with a result that is not large."""
    apart = 0.0137 * torch.arange(1, 7, dtype=a.dtype)
    h, x = (torch.tanh(fit(v, 6)) + apart for v in (a, c))
    return fit(torch.tanh(0.3 * operations.result(operation, None, h, x)), a.shape[0])


class Random(Recurrence):
    """A step drawn from a seed: some operations on states, inputs and what came before."""

    lane = Lane.CHANNEL

    def __init__(self, seed: int):
        dice = random.Random(seed)
        self_lane = dice.choice(list(Lane))
        lanes, size = dice.choice([1, 3, 8, 9, 17]), dice.choice([1, 2, 5, 8, 11])
        super().__init__(lanes * size)
        self.lane, self.lanes, self.size = self_lane, lanes, size
        self.vector = self_lane is not Lane.CHANNEL or dice.random() < 0.5
        if self_lane is Lane.LAYER:
            self.lanes, self.size = 1, self.width
        self.num_states = dice.choice([1, 1, 2, 3])
        self.program = self._draw(dice)
        width = self.size if self.vector else 1
        self.mix = torch.nn.Parameter(torch.randn(self.lanes, width, width) / width**0.5)
        self.common = torch.nn.Parameter(torch.randn(width, width) / width**0.5)
        self.bias = torch.nn.Parameter(torch.randn(self.lanes, *self._inner) * 0.3)
        self.scale = torch.nn.Parameter(torch.ones(self.width))

    @property
    def _inner(self):
        return (self.size,) if self.vector else ()

    def _draw(self, dice):
        """(operation, argument numbers) in order; arguments count from the states on."""
        program, known = [], self.num_states + 3
        for _ in range(dice.randint(3, 12)):
            kinds = ["unary", "binary", "binary"] + (["vector", "matrix", "common", "operation"] if self.vector else [])
            kind = dice.choice(kinds)
            tables = {"unary": UNARY, "binary": BINARY, "vector": VECTOR, "operation": OPERATIONS}
            table = tables.get(kind, MATRIX)
            name = dice.choice(list(table))
            program.append((kind, name, dice.randrange(known), dice.randrange(known)))
            known += 1
        self.results = [dice.randrange(known) for _ in range(self.num_states + 1)]
        return program

    def start(self):
        one = self.lane is Lane.LAYER
        return {
            f"s{i}": torch.full((() if one else (self.lanes,)) + self._inner, 0.1 * i) for i in range(self.num_states)
        }

    def inputs(self, x):
        x = x * self.scale
        lanes = x.unflatten(-1, (self.lanes, self.size))
        per_lane = lanes if self.vector else lanes[..., 0]
        common = lanes[:, :, 0] if self.vector else lanes[:, :, 0, 0]
        if self.lane is Lane.LAYER:
            per_lane = per_lane[:, :, 0]
            return {"x": per_lane, "u": shared(common), "b": constant(self.bias[0]), "m": constant(self.mix[0])}
        return {"x": per_lane, "u": shared(common), "b": constant(self.bias), "m": constant(self.mix)}

    def step(self, *states, x, u, b, m):
        values = [*states, x, u, b]
        for kind, name, i, j in self.program:
            a, c = values[i], values[j]
            if kind == "unary":
                values.append(UNARY[name](a))
            elif kind == "binary":
                values.append(BINARY[name](a, c))
            elif kind == "vector":
                values.append(VECTOR[name](a))
            elif kind == "operation":
                values.append(operated(name, a, c))
            else:
                own, other = (m, self.common) if kind == "matrix" else (self.common, m)
                values.append(MATRIX[name](own, other, a))
        results = [torch.tanh(values[i]) for i in self.results]
        # Every state also depends on its own past, so that errors would add up.
        after = tuple(0.5 * (old + new) for old, new in zip(states, results[:-1], strict=True))
        return (after if len(after) > 1 else after[0]), results[-1]


def hold(seed, dtype):
    torch.manual_seed(seed)
    options = {"state": seed % 2 == 0, "resets": seed % 3 == 0, "lengths": seed % 5 == 0}
    case = draw(lambda: Random(seed), dtype, batch=1 + seed % 4, time=1 + seed % 7, **options)
    expected, got = gradients(case, "loop"), gradients(case, "compiled")
    for name, value in expected.items():
        assert_close(f"seed {seed}: {name}", got[name], value, dtype)


FIRST = random.SystemRandom().randrange(10**6)
"""A fresh set of steps in every run; a failure names its seed."""


@pytest.mark.parametrize("seed", range(40))
def test_random_steps(seed):
    hold(FIRST + seed, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(500))
def test_many_random_steps(seed):
    hold(FIRST + 1000 + seed, torch.float64 if seed % 2 else torch.float32)
