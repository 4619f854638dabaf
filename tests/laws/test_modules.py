"""Modules as other libraries handle them: adapters around their parts, hooks, quantised maps, parameters of another
type, in other memory, made under another default."""

import copy
from itertools import chain

import pytest
import torch
from modules import ALL
from torch import nn
from torch.nn.utils import prune

from recurra.check import representative
from recurra.contract import Layer
from recurra.testing.tolerances import assert_close

every = pytest.mark.parametrize("name", ALL)
# Where steps are so long that compiling one more of them takes seconds, some laws are held by the slow tests.
LONG = ("atlas", "xlstm", "memory as context")
many = pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in ALL])


class Adapted(nn.Module):
    """A map with an update of low rank beside it, and the names that it had."""

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)

    def __init__(self, base):
        super().__init__()
        rows, columns = base.weight.shape
        self.base = base
        self.down = nn.Parameter(torch.randn(2, columns, dtype=base.weight.dtype) / 2)
        self.up = nn.Parameter(torch.randn(rows, 2, dtype=base.weight.dtype) / 2)


class AdaptedLinear(Adapted):
    def forward(self, x):
        return self.base(x) + nn.functional.linear(nn.functional.linear(x, self.down), self.up)


class AdaptedEmbedding(Adapted):
    def forward(self, tokens):
        return self.base(tokens) + nn.functional.embedding(tokens, self.up) @ self.down


class InIntegers(nn.Module):
    """A linear map whose weight is held in eight bits, as a parameter."""

    def __init__(self, base):
        super().__init__()
        self.scale = nn.Buffer(base.weight.detach().abs().max() / 127)
        self.weight = nn.Parameter((base.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = base.bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


ADAPTED = {nn.Linear: AdaptedLinear, nn.Embedding: AdaptedEmbedding}


def replace_each(module, wraps, but=()):
    """Put what `wraps` makes of a part, by its type, in its place; by name, what is new."""
    found = {at: part for at, part in module.named_modules() if type(part) in wraps and at not in but}
    for at, part in found.items():
        parent, _, own = at.rpartition(".")
        found[at] = wraps[type(part)](part)
        setattr(module.get_submodule(parent), own, found[at])
    return found


def called(module):
    """Names of the parts that are called: all but containers, and what only a step calls."""
    inside = {f"{at}.{own}".strip(".") for at, part in module.named_modules()
              for own in (part.called_in_step if isinstance(part, Layer) else ())}  # fmt: skip
    containers = (nn.ModuleList, nn.ParameterList)
    return {at for at, part in module.named_modules() if not isinstance(part, containers)} - inside


@every
def test_adapters_give_what_they_give_once_merged(name):
    kind = ALL[name]
    module = kind.make().double()
    given, merged = kind.draw(module), copy.deepcopy(module)
    before = module(given)[0]
    adapters = replace_each(module, ADAPTED, but=kind.tied)
    with torch.no_grad():
        for at, adapter in adapters.items():
            merged.get_submodule(at).weight += adapter.up @ adapter.down
    y = module(given)[0]
    assert_close("y", y, merged(given)[0])
    # More than rounding in double precision; how much more depends on the draw (a gate that is shut lets little by).
    assert not adapters or (y - before).abs().max() > 1e-8
    y.square().sum().backward()
    for at, adapter in adapters.items():
        assert adapter.up.grad is not None, f"{at} gets no gradient"
        assert adapter.up.grad.any(), f"{at} gets a gradient of zero"


@every
@pytest.mark.filterwarnings("ignore:replaying the step")  # where a step calls such a map
def test_maps_may_be_held_in_integers(name):
    kind = ALL[name]
    module = kind.make()
    given, plain = kind.draw(module), copy.deepcopy(module)
    maps = replace_each(module, {nn.Linear: InIntegers})
    with torch.no_grad():
        for at, part in maps.items():
            plain.get_submodule(at).weight.copy_(part.weight * part.scale)
    y, state = module(given)
    expected, end = plain(given)
    assert_close("y", y, expected)
    for own, value in end.items():
        assert_close(f"state {own}", state[own], value)


@every
@pytest.mark.filterwarnings("ignore:Full backward hook")  # tokens have no gradient, and PyTorch says so
def test_every_hook_runs(name):
    kind = ALL[name]
    module = kind.make()
    given, seen = kind.draw(module), set()
    if not kind.reads_tokens:
        given.requires_grad_()
    with torch.no_grad():
        _, state = module(given)
        if kind.streams:
            module.advance(given[:, 0], state)
            module.advance(given[:1, 0], {own: value[:1] for own, value in state.items()})
    expected = called(module)
    for at in expected:
        part = module.get_submodule(at)
        part.register_forward_pre_hook(lambda *_, at=at: seen.add(("before", at)))
        part.register_forward_hook(lambda *_, at=at: seen.add(("after", at)))
        part.register_full_backward_hook(lambda *_, at=at: seen.add(("backward", at)))
    module(given)[0].square().sum().backward()
    assert seen == {(when, at) for when in ("before", "after", "backward") for at in expected}
    if kind.streams:
        for rows in (1, 2):
            seen.clear()
            with torch.no_grad():
                module.advance(given[:rows, 0], {own: value[:rows] for own, value in state.items()})
            assert {at for _, at in seen} >= expected - {""}, f"a time step of {rows}"


@every
@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of what it will do away with
def test_linear_maps_can_be_quantised(name):
    from torch.ao.nn.quantized.dynamic import Linear
    from torch.ao.quantization import quantize_dynamic

    kind = ALL[name]
    module = kind.make().eval()
    given = kind.draw(module)
    maps = {at for at, part in module.named_modules() if isinstance(part, nn.Linear)}
    with torch.no_grad():
        quantised = quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
        assert {at for at, part in quantised.named_modules() if type(part) is Linear} == maps
        y, z = module(given)[0], quantised(given)[0]
    assert (y - z).norm() < 0.2 * y.norm()


def vectors(module, wide):
    """Parameters, as groups of those of one type, that may be of a wider type than x: all but the matrices that it goes
    through, which are `nn.Linear`, or the first of a layer that has none."""
    for part in module.modules():
        own = list(part.parameters(recurse=False))
        if isinstance(part, nn.LayerNorm):
            # PyTorch's own mixes with half types only, and its weight and bias are alike.
            yield own if wide is torch.float32 else []
        elif not isinstance(part, (nn.Linear, nn.Embedding)):
            first = representative(part) if isinstance(part, Layer) else None
            yield from ([p] for p in own if p is not first)


@many
@pytest.mark.parametrize(
    ("narrow", "wide", "alone"),
    [
        (torch.bfloat16, torch.float32, False),
        pytest.param(torch.bfloat16, torch.float32, True, marks=pytest.mark.slow),
        pytest.param(torch.float32, torch.float64, True, marks=pytest.mark.slow),
    ],
)
def test_types_may_be_mixed(name, narrow, wide, alone):
    """Decays, norms, biases and the like in a wider type than the matrices: the same numbers, in the type of x."""
    kind = ALL[name]
    module = kind.make().to(narrow)
    given = kind.draw(module)
    expected, end = module(given)
    groups = list(vectors(module, wide))
    for group in groups if alone else [list(chain(*groups))]:
        for parameter in group:
            parameter.data = parameter.data.to(wide)
        for engine in ("loop", "auto"):
            y, state = module(given, engine=engine)
            assert y.dtype is expected.dtype
            assert_close(f"y of engine {engine}", y, expected)
        y.float().square().sum().backward()
        assert {own: value.dtype for own, value in state.items()} == {own: value.dtype for own, value in end.items()}
        for parameter in group:
            parameter.grad, parameter.data = None, parameter.data.to(narrow)


@pytest.fixture(
    params=[
        (torch.float64, torch.float32),
        (torch.float64, torch.float64),
        pytest.param((torch.float32, torch.float64), marks=pytest.mark.slow),
    ]
)
def defaults(request):
    """The default type while a module is made, and while it runs."""
    yield request.param
    torch.set_default_dtype(torch.float32)


@many
def test_default_type(name, defaults):
    """What is made has the type that is the default then; the default of the time when it runs changes nothing."""
    kind, (made, runs) = ALL[name], defaults
    torch.set_default_dtype(made)
    module = kind.make()
    assert {t.dtype for t in (*module.parameters(), *module.buffers())} <= {made}
    given = kind.draw(module)
    expected, end = copy.deepcopy(module)(given, engine="loop")
    torch.set_default_dtype(runs)
    for engine in ("auto", "loop"):
        y, state = module(given, engine=engine)
        assert y.dtype is made
        assert_close("y", y, expected)
        for own, value in end.items():
            assert_close(f"state {own}", state[own], value)
            assert state[own].dtype is value.dtype
    y.sum().backward()
    if kind.streams:
        with torch.no_grad():
            many = module.advance(given[:, 0])[0]
            first = module(given[:1, :0])[1]
            assert_close("a time step of one", module.advance(given[:1, 0], first)[0], many[:1])


@many
def test_parameters_may_be_parts_of_one_vector(name):
    """As optimisers hold them that look at all parameters at once; at any place, however odd."""
    kind = ALL[name]
    module = kind.make()
    given, plain = kind.draw(module), copy.deepcopy(module)
    vector = torch.cat([torch.zeros(1), nn.utils.parameters_to_vector(module.parameters())])[1:].detach()
    nn.utils.vector_to_parameters(vector, module.parameters())
    y, expected = module(given)[0], plain(given)[0]
    assert_close("y", y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for (at, got), wanted in zip(module.named_parameters(), plain.parameters(), strict=True):
        assert (got.grad is None) == (wanted.grad is None), at
        if wanted.grad is not None:
            assert_close(f"gradient of {at}", got.grad, wanted.grad)


def held(module):
    """Names of parts and of the parameters they hold; of lists, PyTorch's tools can take none."""
    return [(at, own) for at, part in module.named_modules() if not isinstance(part, nn.ParameterList)
            for own, _ in part.named_parameters(recurse=False)]  # fmt: skip


@every
def test_pruned_weights(name):
    """What is left of every parameter by `torch.nn.utils.prune`, now and after its next change: numbers and slopes."""
    kind = ALL[name]
    module = kind.make().double()
    given, plain, pruned = kind.draw(module), copy.deepcopy(module), {}
    module(given)  # what is found out here must not stay
    for at, own in held(plain):
        prune.random_unstructured(module.get_submodule(at), own, 0.4)
        weight, part = plain.get_parameter(f"{at}.{own}".strip(".")), module.get_submodule(at)
        weight.data *= part.get_buffer(f"{own}_mask")
        pruned[weight] = part.get_parameter(f"{own}_orig"), part.get_buffer(f"{own}_mask")
    for _ in range(2):
        y, expected = module(given)[0], plain(given)[0]
        assert_close("y", y, expected)
        y.square().sum().backward()
        expected.square().sum().backward()
        for weight, (got, mask) in pruned.items():
            if weight.grad is not None:
                assert_close("gradient", got.grad, weight.grad * mask)
            got.grad, weight.grad, got.data, weight.data = None, None, got * 1.1, weight * 1.1
    _same_time_step(kind, module, plain, given)


@every
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_over_their_norms(name):
    """By the hooks of the old `torch.nn.utils.weight_norm`, on every matrix."""
    kind = ALL[name]
    module = kind.make().double()
    for parameter in module.parameters():
        parameter.data += torch.randn_like(parameter) / 10  # a row of zeros has no direction
    given, plain = kind.draw(module), copy.deepcopy(module)
    module(given)
    for at, own in held(plain):
        if (weight := plain.get_parameter(f"{at}.{own}".strip("."))).dim() > 1:
            part = nn.utils.weight_norm(module.get_submodule(at), own)
            part.get_parameter(f"{own}_g").data *= 1.5
            weight.data *= 1.5
    y = module(given)[0]
    assert_close("y", y, plain(given)[0])
    y.square().sum().backward()
    assert all(p.grad is not None for own, p in module.named_parameters() if own.endswith("_g"))
    _same_time_step(kind, module, plain, given)


def _same_time_step(kind, module, plain, given):
    if kind.streams:
        with torch.no_grad():
            y, expected = (m.advance(given[:1, 2], m(given[:1, :2])[1])[0] for m in (module, plain))
            # Weights with holes may make much of a rounding: as far apart as the plain layer's own forms are.
            slack = 100 * (expected - plain(given[:1, :3])[0][:, 2]).abs().max()
        assert_close("y of a time step", y, expected, slack=slack)
