"""Every operation of docs/operations.csv, as a step of its own: the graph of the step and of its derivative, evaluated,
are PyTorch's value and gradient; and, slowly, the kernels made of them."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from recurra.compiler.frontend.derive import vector_jacobian
from recurra.compiler.frontend.graph import unmarked
from recurra.compiler.frontend.interpret import evaluate
from recurra.engines.traced import tensors_of, traced_step
from recurra.testing.tolerances import assert_close

_spec = importlib.util.spec_from_file_location("operations", Path(__file__).parents[2] / "docs/operations.py")
operations = importlib.util.module_from_spec(_spec)
sys.modules["operations"] = operations
_spec.loader.exec_module(operations)
ROWS = operations.rows()
GROUPS = list(dict.fromkeys(row["group"] for row in ROWS))


def by_graph(layer, h, x, weights):
    """The new state and the gradients of its weighted sum by h and x, from the graph of the step."""
    problem = layer.problem(x[None, None])
    step = traced_step(problem)
    assert not isinstance(step, str), step
    graph, leaves = step.traced.graph, {"state.h": h, "weights": weights}
    for name, tensor in tensors_of(problem, step).items():
        if name in step.leaves:
            leaves[name] = tensor.detach().reshape(step.leaves[name].shape)
    after = step.traced.states["h"]
    inputs = [graph.input("state.h", h.shape), graph.input("input.x", x.shape)]
    gradients = vector_jacobian(graph, {after: graph.input("weights", h.shape)}, inputs)
    wanted = unmarked(graph, dict(enumerate([after, *gradients])))
    return evaluate(wanted.values(), leaves, h.dtype)


def by_hand(layer, h, x, weights):
    """The same by PyTorch; just the state where it has no gradient."""
    h, x = h.clone().requires_grad_(), x.clone().requires_grad_()
    try:
        after = layer.step(h, x)[0]
        return after, *torch.autograd.grad(after, [h, x], weights, allow_unused=True, materialize_grads=True)
    except RuntimeError as error:
        if not re.search("derivative|differentiation", str(error)):
            raise
        return [layer.step(h.detach(), x.detach())[0]]


@pytest.mark.filterwarnings("ignore")  # of operations that PyTorch would rather not have
@pytest.mark.parametrize("group", GROUPS)
def test_graphs_are_what_pytorch_does(group):
    for row in ROWS:
        if row["group"] == group and row["outcome"] == "compiled":
            layer = operations.Operation(row["operation"]).double()
            h, x, weights = torch.randn(3, 6, dtype=torch.float64)
            results = zip(by_graph(layer, h, x, weights), by_hand(layer, h, x, weights), strict=False)
            for name, (got, expected) in zip(("value", "gradient of h", "gradient of x"), results, strict=False):
                single = torch.float32 if row["operation"] in operations.IN_SINGLE else None
                assert_close(f"{row['operation']}: {name}", got, expected, single)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("group", GROUPS)
def test_the_table_is_up_to_date(group):
    for row in ROWS:
        if row["group"] == group:
            now = operations.outcome(row["operation"])[0]
            assert now == row["outcome"], f"{row['operation']}: run `make operations`"
