"""Regrouped products and sums: the same values, from fewer operations on large ones."""

import random

import pytest
import torch

import recurra
from recurra.compiler.frontend.graph import POINTWISE, Graph, topological
from recurra.compiler.frontend.interpret import evaluate
from recurra.compiler.planning.regroup import regroup
from recurra.testing.cases import compare, draw
from recurra.testing.tolerances import assert_close


def drawn(dice):
    """A graph of products, sums and differences of scalars, rows, columns, matrices and a cube."""
    graph = Graph()
    shapes = {"s": (), "r": (1, 5), "c": (3, 1), "M": (3, 5), "N": (3, 5), "t": (2, 1, 5), "Q": (2, 3, 5)}
    known = [graph.input(name, shape) for name, shape in shapes.items()]
    for _ in range(dice.randrange(4, 20)):
        kind = dice.choice(["mul", "mul", "mul", "add", "sub", "neg", "sum", "expand"])
        a, b = dice.choice(known), dice.choice(known)
        if kind == "sum" and a.shape:
            axes = dice.sample(range(len(a.shape)), dice.randrange(1, len(a.shape) + 1))
            kept = tuple(1 if i in axes else n for i, n in enumerate(a.shape))
            known.append(graph.reshape(graph.reduce("sum", a, axes), kept))
        elif kind == "expand":
            known.append(graph.expand(a, (2, 3, 5)))
        elif kind == "neg":
            known.append(graph.pointwise("neg", a))
        elif kind in ("mul", "add", "sub"):
            known.append(graph.pointwise(kind, a, b))
    outputs = {f"y{i}": node for i, node in enumerate(dice.sample(known, min(4, len(known))))}
    return graph, outputs, {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.mark.parametrize("seed", range(60))
def test_regrouping_keeps_values(seed):
    dice = random.Random(seed)
    graph, outputs, inputs = drawn(dice)
    expected = evaluate(outputs.values(), inputs, torch.float64)
    after = regroup(graph, outputs)
    for name, value, got in zip(outputs, expected, evaluate(after.values(), inputs, torch.float64), strict=True):
        assert_close(f"seed {seed}: {name}", got, value, torch.float64)


def test_a_delta_rule_is_taken_apart():
    """sum over k of (S + b u k^T) q, with everything but S q left to vectors."""
    graph = Graph()
    S, b = graph.input("S", (64, 32)), graph.input("b", ())
    u, k, q = graph.input("u", (64, 1)), graph.input("k", (1, 32)), graph.input("q", (1, 32))
    update = graph.pointwise("mul", b, graph.pointwise("mul", u, k))
    y = graph.reduce("sum", graph.pointwise("mul", graph.pointwise("add", S, update), q), (1,))
    large = [n.op for n in topological(regroup(graph, {"y": y}).values()) if n.size == 64 * 32 and n.op in POINTWISE]
    assert large == ["mul"]


def test_a_mean_is_subtracted_before_the_sum():
    graph = Graph()
    S, m, x = graph.input("S", (64, 32)), graph.input("m", (64, 1)), graph.input("x", (1, 32))
    y = graph.reduce("sum", graph.pointwise("mul", graph.pointwise("sub", S, m), x), (1,))
    large = [n.op for n in topological(regroup(graph, {"y": y}).values()) if n.size == 64 * 32 and n.op in POINTWISE]
    assert large == ["sub", "mul"]


@pytest.mark.parametrize("sizes", [(7, 19), (1, 3), (33, 6), (20, 17)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_matrices_of_any_size(sizes, dtype):
    """Rows go four at a time and columns by the vector: what is left over counts too."""
    keys, values = sizes

    def make():
        return recurra.layer("gated-delta-net", 6, heads=2, key_size=keys, value_size=values)

    compare(draw(make, dtype, batch=2, time=11, state=True, resets=True), "compiled")
    compare(draw(make, dtype, batch=3, time=5, lengths=True), "compiled")
