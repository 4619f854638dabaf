"""What is found out about a step, against what the papers claim and against steps made to be one or the other."""

import pytest
import torch

import recurra
from recurra import Lane, Recurrence

AFFINE = {
    "min-gru": ("scalar", False), "min-lstm": ("scalar", False), "lru": ("scalar", True), "mamba": ("diagonal", False),
    "rg-lru": ("scalar", False), "hgrn": ("scalar", False), "s4d": ("diagonal", True), "dss": ("diagonal", True),
    "s5": ("scalar", True), "lmu": ("dense", True), "linear-attention": ("diagonal", True),
    "based": ("diagonal", True), "retnet": ("diagonal", True), "gla": ("diagonal", False),
    "hgrn2": ("diagonal", False), "mamba2": ("diagonal", False), "delta-net": ("block", False),
    "gated-delta-net": ("block", False), "delta-product": ("block", False), "rwkv7": ("block", False),
    "qrnn": ("scalar", False), "rwkv6": ("diagonal", False), "rwkv5": ("diagonal", True),
    "lightning-attention": ("diagonal", True),
    "longhorn": ("diagonal", False), "rodimus": ("diagonal", False), "gated-slot-attention": ("diagonal", False),
    "kimi-delta-attention": ("block", False), "gated-delta-net-2": ("block", False), "comba": ("block", False),
    "urn": ("dense", False), "block-lrnn": ("dense", False), "space-time": ("dense", True), "linoss": ("dense", True),
    "ema": ("diagonal", True), "s7": ("diagonal", False), "pgn": ("dense", True), "gated-conv": ("dense", True),
    "short-conv": ("dense", True),
    "s4": ("dense", True), "lssl": ("dense", True), "h3": ("diagonal", True), "conv-s5": ("scalar", True),
    "multires-conv": ("dense", True), "fsmn": ("block", True), "griffin": ("scalar", False),
    "falcon-mamba": ("diagonal", False), "rwkv4-channel-mix": ("scalar", True),
    "mamba3": ("diagonal", False), "raven": ("diagonal", False),
    "log-linear-mamba2": ("block", False), "log-linear-gated-delta-net": ("block", False),
    "gated-oja": ("block", False), "mesa-net": ("diagonal", False),
}  # fmt: skip
"""Layers whose papers say that the state enters linearly: how the Jacobian is filled, whether it is constant. In all
others it does not."""
NONLINEAR = {name for name, kind in recurra.layers().items() if issubclass(kind, Recurrence)} - set(AFFINE)


@pytest.mark.parametrize("name", AFFINE)
def test_layers_that_are_affine(name):
    structure = recurra.layer(name, 8).structure
    assert (structure.affine, structure.obstacle) == (True, None)
    assert (structure.kind, structure.constant) == AFFINE[name]


@pytest.mark.parametrize("name", sorted(NONLINEAR))
def test_layers_that_are_not(name):
    structure = recurra.layer(name, 8).structure
    assert not structure.affine
    assert ".py:" in structure.obstacle


class Step(Recurrence):
    """A vector state and two inputs, for steps written below."""

    lane = Lane.HEAD

    def __init__(self, function):
        super().__init__(4)
        self.function = function
        self.weight = torch.nn.Parameter(torch.randn(4, 4))

    def start(self):
        return {"h": torch.zeros(1, 4)}

    def inputs(self, x):
        return {"z": torch.sigmoid(x)[:, :, None], "v": x[:, :, None]}

    def step(self, h, z, v):
        h = self.function(h, z, v, self.weight)
        return h, h


IN_DISGUISE = {
    "h + z*(v - h)": lambda h, z, v, W: h + z * (v - h),
    "where(z > 0, h, v)": lambda h, z, v, W: torch.where(z > 0.5, h, v),
    "a division": lambda h, z, v, W: (h * z + v) / (1 + z),
    "a negation twice": lambda h, z, v, W: -(-h - v),
    "lerp": lambda h, z, v, W: torch.lerp(h, v, z),
    "a matrix": lambda h, z, v, W: W @ h + v,
    "an outer product": lambda h, z, v, W: h - z * (z @ h),
    "a mean": lambda h, z, v, W: h.mean() * z + v,
    "parts put together": lambda h, z, v, W: torch.cat([h[2:], v[:2]]),
}
NOT_AFFINE = {
    "tanh": (lambda h, z, v, W: torch.tanh(h), "tanh"),
    "a product with itself": (lambda h, z, v, W: h * (h + v), "mul"),
    "a gate of the state": (lambda h, z, v, W: torch.where(h > 0, h, v), "lt"),
    "a norm": (lambda h, z, v, W: h / (1 + h.abs().amax()), "abs"),
    "a maximum": (lambda h, z, v, W: torch.maximum(h, v), "maximum"),
    "division by it": (lambda h, z, v, W: v / (h + 3), "div"),
}


@pytest.mark.parametrize("name", IN_DISGUISE)
def test_affine_in_disguise(name):
    assert Step(IN_DISGUISE[name]).structure.affine


@pytest.mark.parametrize("name", NOT_AFFINE)
def test_not_affine(name):
    function, operation = NOT_AFFINE[name]
    structure = Step(function).structure
    assert not structure.affine
    assert structure.obstacle.startswith(operation)
    assert "test_structure.py:" in structure.obstacle


@pytest.mark.parametrize(
    ("function", "kind", "block"),
    [
        (lambda h, z, v, W: z * h + v, "diagonal", 1),
        (lambda h, z, v, W: torch.cat([h[:2].flip(0), h[2:]]) * z, "block", 2),
        (lambda h, z, v, W: W @ h + v, "dense", 4),
        (lambda h, z, v, W: torch.cat([h[1:], h[:1]]) + v, "dense", 4),
    ],
)
def test_how_the_jacobian_is_filled(function, kind, block):
    structure = Step(function).structure
    assert (structure.kind, structure.block, structure.size) == (kind, block, 4)


@pytest.mark.parametrize("seed", range(10))
def test_groups_cover_the_jacobian(seed):
    """Outside the groups found, the Jacobian that autograd gives is zero; within, something is there."""
    torch.manual_seed(seed)
    mask = torch.rand(4, 4) < 0.25
    layer = Step(lambda h, z, v, W: torch.tanh(sum((W[:, j] * mask[:, j]) * h[j] for j in range(4)) + v))
    h, z, v = torch.randn(3, 4)
    J = torch.func.jacrev(lambda h: layer.step(h, z, v)[0])(h)
    allowed = torch.zeros(4, 4, dtype=torch.bool)
    for group in layer.structure.groups:
        allowed[torch.tensor(group)[:, None], torch.tensor(group)] = True
    assert (J[~allowed] == 0).all()


def test_an_untraceable_step_has_no_structure():
    layer = Step(lambda h, z, v, W: h if float(h.sum()) > 0 else v)
    with pytest.raises(recurra.InputError, match=r"structure cannot be found out.*test_structure\.py"):
        _ = layer.structure
