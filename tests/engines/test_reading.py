"""What a step reads besides its arguments is found where it lies, and is part of what a trace is for."""

import torch
from torch import nn

from recurra import Lane, Recurrence
from recurra.engines.choose import observe
from recurra.testing.tolerances import assert_close

elsewhere = nn.Parameter(torch.randn(4, 4))


class Elsewhere(Recurrence):
    """Reads a parameter in a list, and a global one."""

    lane = Lane.LAYER

    def __init__(self, width, held):
        super().__init__(width)
        self.many = [held]

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        h = torch.tanh(self.many[0] @ h + elsewhere.t() @ h + x)
        return h, h


def test_one_tensor_in_two_places_is_not_two_tensors():
    """Layers alike share a trace; these are not alike."""
    x = torch.randn(2, 5, 4)
    for held in (elsewhere, nn.Parameter(torch.randn(4, 4)), elsewhere):
        layer, grads = Elsewhere(4, held), {}
        for engine in ("compiled", "loop"):
            y = layer(x, engine=engine)[0]
            grads[engine] = [y, *torch.autograd.grad(y.square().sum(), [held, elsewhere])]
        for got, expected in zip(grads["compiled"], grads["loop"], strict=True):
            assert_close("y and its gradients", got, expected)


def test_a_counter_leaves_few_traces():
    """Every value that an attribute had is another trace, and only the last are kept."""
    from recurra.engines import traced

    layer = Elsewhere(4, elsewhere)
    for count in range(2 * traced.MOST):
        layer.count = count
        layer.many = [elsewhere, count]
        with observe() as seen, torch.no_grad():
            layer(torch.randn(1, 1, 4))
        assert seen == ["compiled"]
    assert len(traced._traces) <= traced.MOST
