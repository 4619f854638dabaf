"""Every operation of docs/operations.csv, as a step of its own: the graph of the step and of its derivative, evaluated,
are PyTorch's value and gradient; and, slowly, the kernels made of them."""

import random
import re

import pytest
import torch
from cells import operations

from recurra import Lane, Recurrence
from recurra.compiler.frontend.derive import vector_jacobian
from recurra.compiler.frontend.graph import unmarked
from recurra.compiler.frontend.interpret import evaluate
from recurra.engines.traced import tensors_of, traced_step
from recurra.testing.tolerances import assert_close

FIRST = random.SystemRandom().randrange(10**6)
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


VIEWS = {
    "part": lambda y: y[1:4],
    "every other": lambda y: y[::2],
    "row": lambda y: y.view(2, 3)[1],
    "column": lambda y: y.view(3, 2)[:, 1],
    "turned": lambda y: y.view(2, 3).t()[1:],
    "diagonal": lambda y: y.view(2, 3).diagonal(),
    "one": lambda y: y[3],
    "whole": lambda y: y.view(3, 2),
}
WRITES = {
    "copy": lambda v, x: v.copy_(x[: v.numel()].view(v.shape)),
    "scale": lambda v, x: v.mul_(0.5),
    "add": lambda v, x: v.add_(x[-1], alpha=2),
    "fill": lambda v, x: v.fill_(0.5),
    "function": lambda v, x: v.copy_(torch.tanh(v.clone())),
    "mask": lambda v, x: v.masked_fill_(v > x[1], 0.25),
}


class Writing(Recurrence):
    """Views of a tensor, all in one memory, written to one after another and read in between."""

    lane = Lane.LAYER

    def __init__(self, seed):
        super().__init__(6)
        dice = random.Random(seed)
        names = list(VIEWS), list(WRITES)
        self.program = tuple((dice.choice(names[0]), dice.choice(names[1]), dice.choice(names[0])) for _ in range(4))
        self.blank = dice.random() < 0.3

    def start(self):
        return {"h": torch.zeros(6)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        y = torch.zeros(6, dtype=h.dtype) if self.blank else h * 1
        kept, read = [] if self.blank else [VIEWS[name](y) for name, _, _ in self.program], 0
        for i, (name, write, other) in enumerate(self.program):
            WRITES[write](VIEWS[name](y) if self.blank else kept[i], x)
            read = read + VIEWS[other](y).sum()
        h = torch.tanh(y + read * x + sum(view.flatten().dot(x[: view.numel()]) for view in kept))
        return h, h


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_writing_to_parts(seed):
    seed += FIRST
    layer = Writing(seed).double()
    h, x, weights = torch.randn(3, 6, dtype=torch.float64)
    for got, expected in zip(by_graph(layer, h, x, weights), by_hand(layer, h, x, weights), strict=True):
        assert_close(f"seed {seed}: {layer.program}", got, expected)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ("torch.argsort(h) * 2**30", "count beyond"),
        ("(h.long() + 1)", "count beyond"),
        ("torch.argmax(h) & 1", "bit by bit"),
        ("torch.as_tensor(h.tolist())", "tolist()"),
        ("torch.as_tensor(h.detach().numpy())", "numpy()"),
        ("h[h > 0]", "use torch.where"),
        ("F.one_hot(torch.argmax(h))", "num_classes"),
        ("y = torch.zeros(2, 3); y[k, k] = h[0]", "use torch.where"),
        ("y = torch.view_as_real(z); y[0] = 1; y = z", "by its parts"),
        ("torch.cond(h.sum() > 0, lambda: h, lambda: x)", "torch.where"),
    ],
)
def test_what_is_refused_says_what_helps(operation, words):
    refusal = operations.Operation(operation).refusals(torch.randn(1, 1, 6))["compiled"]
    assert words in refusal


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("group", GROUPS)
def test_the_table_is_up_to_date(group):
    for row in ROWS:
        if row["group"] == group:
            now = operations.outcome(row["operation"])[0]
            assert now == row["outcome"], f"{row['operation']}: run `make operations`"
