"""Holding a layer to somebody else's implementation with the same weights: values, steps and gradients.

Tolerances are relative to the largest number: 1e-9 in float64, and 1e-4 in float32 for peers that round to it inside.
"""

import torch

LIMITS = {torch.float64: 1e-9, torch.float32: 1e-4}


def scattered(module, dtype):
    """The module with every parameter moved away from where it starts, so that none is 0 or 1."""
    for parameter in module.parameters():
        value = parameter.detach()
        parameter.data = torch.where(value.isfinite(), value, 0) + 0.2 * torch.randn(value.shape)
    return module.to(dtype).eval()


def close(what, got, expected):
    assert got.dtype == expected.dtype
    off, largest = (float(value.detach().abs().max()) for value in (got - expected, expected))
    assert off <= LIMITS[got.dtype] * largest, f"{what} is off by {off:.2g}, the largest being {largest:.2g}"


def fill(layer, weights):
    """Copy `weights` into the parameters of those names, which must be all that the layer has."""
    parameters = dict(layer.named_parameters())
    assert set(weights) == set(parameters)
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    return layer


def same(layer, weights, peer, x, run=None):
    """The layer is what the peer is, on x: whole, one step after the other, and in the gradients of x and of all of the
    peer's parameters.

    Args:
        weights: the layer's, by name, as functions of the peer's parameters.
        run: what gives the peer's outputs from x; by default the peer itself.
    """
    fill(layer, weights)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = layer(ours)[0], (run or peer)(theirs)
    close("y", y, expected)
    own, inside, slope = dict(layer.named_parameters()), dict(peer.named_parameters()), torch.randn_like(y)
    into_x, *wanted = torch.autograd.grad(expected, [theirs, *inside.values()], slope, materialize_grads=True)
    found_x, *found = torch.autograd.grad(y, [ours, *own.values()], slope)
    close("gradient of x", found_x, into_x)
    # The peer's parameters move ours, and these the result.
    moved = [(weights[name], part) for name, part in zip(own, found, strict=True) if weights[name].requires_grad]
    outputs, slopes = zip(*moved, strict=True)
    found = torch.autograd.grad(outputs, list(inside.values()), slopes, materialize_grads=True)
    for name, gradient, expected_gradient in zip(inside, found, wanted, strict=True):
        close(f"gradient of {name}", gradient, expected_gradient)
    with torch.no_grad():
        steps, state = [], None
        for x_t in x.unbind(1):
            y_t, state = layer.advance(x_t, state)
            steps.append(y_t)
        close("y by steps", torch.stack(steps, 1), expected)
