"""Short convolutions as an option of layers that have none of their own."""

import pytest
import torch
from torch.nn.functional import conv1d, silu

import recurra
from recurra.testing.cases import compare, draw
from recurra.testing.tolerances import assert_close

D, B, T = 8, 2, 7
LAYERS = {"gla": (("q", "k", "v"), True, {"heads": 2}), "retnet": (("q", "k", "v"), True, {"heads": 2}),
          "hgrn": (("c", "forget"), False, {"rotate": False}),
          "hgrn2": (("forget", "admit", "query"), False, {})}  # fmt: skip
"""What is convolved, in this order, whether SiLU follows, and options."""


def read(layer, x, names):
    inputs = layer.problem(x).inputs
    return torch.cat([inputs[name].tensor.flatten(2) for name in names], -1)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_what_a_step_reads_is_convolved(name, kernel):
    names, activated, options = LAYERS[name]
    layer, plain = (recurra.layer(name, D, **options, **more).double() for more in ({"kernel": kernel}, {}))
    plain.load_state_dict(layer.state_dict(), strict=False)
    x = torch.randn(B, T, D, dtype=torch.float64)
    signal = read(plain, x, names).mT
    expected = conv1d(signal, layer.conv_weight[:, None], padding=kernel - 1, groups=signal.shape[1])[..., :T].mT
    assert_close("convolved", read(layer, x, names), silu(expected) if activated else expected)


@pytest.mark.parametrize("name", LAYERS)
def test_engines_agree_and_streams_go_on(name):
    case = draw(
        lambda: recurra.layer(name, D, kernel=3, **LAYERS[name][2]),
        torch.float64,
        state=True,
        resets=True,
        lengths=True,
    )
    for engine in ("compiled", "auto"):
        compare(case, engine)
    x = torch.randn(1, T, D, dtype=torch.float64)
    whole, state, outputs = case.layer(x)[0], None, []
    for t in range(T):
        y, state = case.layer.advance(x[:, t], state)
        outputs.append(y)
    assert_close("streamed", torch.stack(outputs, 1), whole)


@pytest.mark.parametrize("name", LAYERS)
def test_wrong_kernels_are_named(name):
    with pytest.raises(recurra.InputError, match="kernel is 0; expected a positive int"):
        recurra.layer(name, D, kernel=0)
