"""The xLSTM block stack: one function whole, cut, streamed, packed and padded, and that of the xlstm package."""

import pytest
import torch

import recurra
from recurra.models.xlstm import XLSTM, BlockSLSTM
from recurra.testing.laws import LAWS
from recurra.testing.tolerances import assert_close

WIDTH = 32


def scattered(module, dtype=torch.float64):
    module = module.to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module


def weights_of(theirs):
    """The weights of a stack of the xlstm package under our names."""
    found = {"norm.weight": 1 + theirs.post_blocks_norm.weight}
    for i, block in enumerate(theirs.blocks):
        layer, own = block.xlstm, {"norm.weight": 1 + block.xlstm_norm.weight}
        if block.ffn is None:
            own |= {f"layer.{name}": value for name, value in mlstm_weights(layer).items()}
        else:
            own |= {f"layer.{name}": value for name, value in slstm_weights(layer).items()}
            own["feedforward_norm.weight"] = 1 + block.ffn_norm.weight
            own |= {"widen.weight": block.ffn.proj_up.weight, "narrow.weight": block.ffn.proj_down.weight}
        found |= {f"blocks.{i}.{name}": value for name, value in own.items()}
    return found


def mlstm_weights(layer):
    cell, (signal, gate) = layer.mlstm_cell, layer.proj_up.weight.chunk(2)
    return {
        "to_signal.weight": signal, "to_gate.weight": gate, "to_output.weight": layer.proj_down.weight,
        "conv_weight": layer.conv1d.conv.weight.squeeze(1), "conv_bias": layer.conv1d.conv.bias,
        "to_query": layer.q_proj.weight, "to_key": layer.k_proj.weight, "to_value": layer.v_proj.weight,
        "to_input.weight": cell.igate.weight, "to_input.bias": cell.igate.bias,
        "to_forget.weight": cell.fgate.weight, "to_forget.bias": cell.fgate.bias,
        "norm_weight": 1 + cell.outnorm.weight, "skip": layer.learnable_skip,
    }  # fmt: skip


def slstm_weights(layer):
    """In their layer, `fgate` feeds the input gate and `igate` the forget gate."""
    gates = (layer.fgate, layer.igate, layer.zgate, layer.ogate)
    return {
        "weight": torch.cat([gate.weight for gate in gates], 1),
        "recurrent": layer.slstm_cell._recurrent_kernel_,
        "bias": layer.slstm_cell._bias_.unflatten(0, (4, layer.config.num_heads, -1)).transpose(0, 1).flatten(1),
        "conv_weight": layer.conv1d.conv.weight.squeeze(1),
        "conv_bias": layer.conv1d.conv.bias,
        "norm_weight": 1 + layer.group_norm.weight,
    }


def test_stack_is_that_of_xlstm():
    """Against their steps. Their parallel form adds its 1e-6 to numbers of another scale, and so differs from both."""
    peer = pytest.importorskip("xlstm")
    config = peer.xLSTMBlockStackConfig(
        mlstm_block=peer.mLSTMBlockConfig(mlstm=peer.mLSTMLayerConfig()),
        slstm_block=peer.sLSTMBlockConfig(
            slstm=peer.sLSTMLayerConfig(backend="vanilla", dtype="float32", enable_automatic_mixed_precision=False),
            feedforward=peer.FeedForwardConfig(),
        ),
        context_length=21, num_blocks=4, embedding_dim=WIDTH, slstm_at=[1, 3],
    )  # fmt: skip
    theirs = scattered(peer.xLSTMBlockStack(config)).eval()
    ours = XLSTM(WIDTH, "mlstm+slstm+mlstm+slstm").double()
    ours.load_state_dict(weights_of(theirs))
    x = torch.randn(2, 21, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        expected, state = [], {}
        for t in range(21):
            y, state = theirs.step(x[:, t : t + 1], state)
            expected.append(y)
        expected, state, steps = torch.cat(expected, 1), None, []
        for t in range(21):
            y, state = ours.advance(x[:, t], state)
            steps.append(y)
        y = ours(x)[0]
        for got in (y, torch.stack(steps, 1)):
            assert (got - expected).abs().max() <= 1e-9 * expected.abs().max()
        assert (y - theirs(x)).abs().max() <= 1e-5 * y.abs().max()


def test_cut_anywhere():
    stack, x = scattered(XLSTM(8, "mlstm+slstm", heads=2)), torch.randn(2, 7, 8, dtype=torch.float64)
    y, end = stack(x)
    for cut in (0, 1, 4, 7):
        first, state = stack(x[:, :cut])
        second, state = stack(x[:, cut:], state)
        assert_close(f"y cut at {cut}", torch.cat([first, second], 1), y)
        for name, value in end.items():
            assert_close(name, state[name], value)


def test_packed_and_padded():
    stack, x = scattered(XLSTM(8, "slstm+mlstm", heads=2)), torch.randn(2, 7, 8, dtype=torch.float64)
    resets = torch.zeros(2, 7, dtype=torch.bool)
    resets[:, 3] = True
    y, _ = stack(x, resets=resets)
    assert_close("first sequence", y[:, :3], stack(x[:, :3])[0])
    assert_close("second sequence", y[:, 3:], stack(x[:, 3:])[0])
    poisoned = x.clone()
    poisoned[0, 4:], poisoned[1] = float("nan"), float("inf")
    y, state = stack(poisoned, lengths=torch.tensor([4, 0]))
    alone, end = stack(x[:1, :4])
    assert_close("valid part", y[:1, :4], alone)
    assert not y[0, 4:].any()
    assert not y[1].any()
    for name, value in end.items():
        assert_close(name, state[name][:1], value)
    y.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in stack.parameters())


@pytest.mark.parametrize("law", ["same_as_reference", "cut_anywhere", "packed_and_padded", "nan_stays_where_it_is"])
def test_its_slstm_keeps_the_laws(law):
    LAWS[law](lambda: scattered(BlockSLSTM(8)), "compiled", torch.float64)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 8, "pattern": "mlstm+mamba"}, r"names \['mamba'\]; expected mlstm and slstm only"),
        ({"width": 0}, "width is 0; expected a positive int"),
        ({"width": 8, "heads": 3}, "heads is 3; expected a divisor"),
        ({"width": 8, "factor": 0}, "factor is 0; expected a number"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(recurra.InputError, match=words):
        XLSTM(**arguments)


def test_a_wrong_input_is_named():
    with pytest.raises(recurra.InputError, match=r"XLSTM expects \[B, T, 8\]"):
        XLSTM(8, "slstm")(torch.zeros(2, 3, 9))
