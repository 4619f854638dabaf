"""SRU++ against its equations, and one function in every form."""

import pytest
import torch
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from recurra import InputError
from recurra.models.sru_plus_plus import SRUPlusPlus
from recurra.problem import constant
from recurra.recurrences.sru import SRU
from recurra.testing.tolerances import assert_close

D, B, T = 8, 3, 11


def scattered(*options):
    layer = SRUPlusPlus(D, *options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return layer, torch.randn(B, T, D, dtype=torch.float64)


def equations(layer, x):
    inner, core = layer.attention, layer.recurrence
    z = x @ layer.to_query.weight.T
    q, k, v = (
        part.unflatten(-1, (inner.heads, -1)).transpose(1, 2)
        for part in (z, z @ inner.to_key.weight.T, z @ inner.to_value.weight.T)
    )
    a = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    z = layer_norm(z + inner.alpha * a, z.shape[-1:], inner.norm.weight, inner.norm.bias)
    value, f, r = (z @ inner.to_output.weight.T).chunk(3, -1)
    c, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        forget, reset = (torch.sigmoid(g[:, t] + core.bias[i] + core.recurrent[:, i] * c) for i, g in ((0, f), (1, r)))
        c = forget * c + (1 - forget) * value[:, t]
        out.append(reset * c + (1 - reset) * x[:, t])
    return torch.stack(out, 1)


@pytest.mark.parametrize("options", [(4, 1), (6, 3), (1, 1)])
def test_is_its_paper(options):
    layer, x = scattered(*options)
    for engine in ("auto", "loop"):
        assert_close(engine, layer(x, engine=engine)[0], equations(layer, x))


def test_it_begins_as_a_unit_with_maps_of_low_rank():
    layer, unit, x = SRUPlusPlus(D, 4).double(), SRU(D).double(), torch.randn(B, T, D, dtype=torch.float64)
    with torch.no_grad():
        z = layer_norm(layer.to_query(x), (4,))
        value, gates = (z @ part.T for part in layer.attention.to_output.weight.split([D, 2 * D]))
        given = {"x": x, "value": value, "f": gates[..., :D], "r": gates[..., D:]}
        unit.inputs = lambda _: given | {"v": constant(layer.recurrence.recurrent)}
        assert_close("y", layer(x)[0], unit(x, engine="loop")[0])


def test_streamed_cut_packed_and_padded():
    layer, x = scattered(6, 3)
    whole, end = layer(x)
    state, steps = None, []
    for t in range(T):
        y, state = layer.advance(x[:, t], state)
        steps.append(y)
    assert_close("streamed", torch.stack(steps, 1), whole)
    for name, value in end.items():
        assert_close(name, state[name], value)
    assert set(end) == set(layer.initial_state(1))
    first, state = layer(x[:, :5])
    assert_close("cut", torch.cat([first, layer(x[:, 5:], state)[0]], 1), whole)
    resets = torch.zeros(B, T, dtype=torch.bool)
    resets[:, 5] = True
    packed = layer(x, resets=resets)[0]
    assert_close("packed", packed, torch.cat([layer(x[:, :5])[0], layer(x[:, 5:])[0]], 1))
    padded = layer(x, lengths=torch.tensor([T, 4, 0]))[0]
    assert_close("padded", padded[1, :4], whole[1, :4])
    assert not padded[1, 4:].any()
    assert not padded[2].any()


def test_gradients():
    layer, x = scattered(4, 2)
    x = x[:2, :4].clone().requires_grad_()
    weights = [x, *layer.parameters()]
    mine = torch.autograd.grad(layer(x)[0].square().sum(), weights)
    expected = torch.autograd.grad(equations(layer, x).square().sum(), weights)
    for got, wanted in zip(mine, expected, strict=True):
        assert_close("gradient", got, wanted)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SRUPlusPlus(0), "width is 0"),
        (lambda: SRUPlusPlus(8, 0), "size is 0"),
        (lambda: SRUPlusPlus(8, 4, 3), "heads is 3"),
        (lambda: SRUPlusPlus(8)(torch.zeros(2, 3, 9)), r"expects \[B, T, 8\]"),
        (lambda: SRUPlusPlus(8)(torch.zeros(2, 3, 8), {"c": torch.zeros(2, 8)}), "attention., recurrence."),
    ],
)
def test_wrong_arguments_are_named(make, words):
    with pytest.raises(InputError, match=words):
        make()
