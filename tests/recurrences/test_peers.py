"""Layers against other people's implementations with the same weights: whole, step by step, and in every gradient."""

import math
import warnings
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from peers import same, scattered
from test_fla import same as same_core
from torch import nn

import recurra

WIDTH, BATCH, TIME = 32, 2, 37


def mamba_weights(mixer):
    """A Mamba mixer's weights, which all share their names, under ours."""
    theirs = dict(mixer.named_parameters())
    return {
        "to_inner.weight": theirs["in_proj.weight"],
        "conv_weight": theirs["conv1d.weight"].squeeze(1),
        "conv_bias": theirs["conv1d.bias"],
        "to_selection.weight": theirs["x_proj.weight"],
        "to_dt.weight": theirs["dt_proj.weight"],
        "to_dt.bias": theirs["dt_proj.bias"],
        "A_log": theirs["A_log"],
        "D": theirs["D"],
        "to_output.weight": theirs["out_proj.weight"],
    }


@pytest.mark.usefixtures("all_in_double")
def test_mamba_is_that_of_transformers():
    peer = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    config = peer.MambaConfig(hidden_size=WIDTH, state_size=5, time_step_rank=3, num_hidden_layers=1)
    theirs = scattered(peer.MambaMixer(config, layer_idx=0), torch.float64)
    x = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)
    same(recurra.layer("mamba", WIDTH, state_size=5, rank=3).double(), mamba_weights(theirs), theirs, x)


@pytest.mark.parametrize("in_parallel", [False, True])
@pytest.mark.usefixtures("all_in_double")
def test_mamba_is_that_of_mambapy(in_parallel):
    peer = pytest.importorskip("mambapy.mamba")
    config = peer.MambaConfig(d_model=WIDTH, n_layers=1, d_state=5, dt_rank=3, pscan=in_parallel)
    theirs = scattered(peer.MambaBlock(config), torch.float64)
    x = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)
    same(recurra.layer("mamba", WIDTH, state_size=5, rank=3).double(), mamba_weights(theirs), theirs, x)


@pytest.mark.usefixtures("all_in_double")
def test_rg_lru_is_that_of_transformers():
    """At position 0 theirs takes what comes in whole, where the paper multiplies it by sqrt(1 - a^2) as everywhere; we
    follow the paper, and positions here start at 1. Its slope of sqrt(1 - a^2) they bound by 1000."""
    peer = pytest.importorskip("transformers.models.recurrent_gemma.modeling_recurrent_gemma")
    config = peer.RecurrentGemmaConfig(hidden_size=WIDTH, lru_width=WIDTH, num_attention_heads=4, num_hidden_layers=1)
    theirs = scattered(peer.RecurrentGemmaRglru(config), torch.float64)
    weights = {
        "gate_weight": torch.stack([theirs.recurrent_gate_weight, theirs.input_gate_weight]),
        "gate_bias": torch.stack([theirs.recurrent_gate_bias, theirs.input_gate_bias]).flatten(1),
        "Lambda": theirs.recurrent_param,
    }
    x = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)
    places = torch.arange(1, TIME + 1).expand(BATCH, -1)
    same(recurra.layer("rg-lru", WIDTH, heads=4).double(), weights, theirs, x, lambda x: theirs(x, places))


def test_gla_core_is_that_of_transformers():
    """MiniMax's lightning attention: a matrix memory that decays by a fixed number, here in GLA's step."""
    peer = pytest.importorskip("transformers.models.minimax.modeling_minimax")
    config = peer.MiniMaxConfig(
        hidden_size=WIDTH, num_attention_heads=4, head_dim=8, num_hidden_layers=2, block_size=8,
        layer_types=["linear_attention"] * 2,
    )  # fmt: skip
    theirs = scattered(peer.MiniMaxLightningAttention(config, layer_idx=0), torch.float64)
    # Its decays are buffers, rounded when it was built; its norm rounds to float32.
    theirs.slope_rate = theirs.get_slope_rate().double()
    theirs.query_decay, theirs.key_decay, theirs.diagonal_decay = theirs.decay_factors(theirs.slope_rate)
    theirs.norm = theirs.out_proj = nn.Identity()
    nn.init.constant_(theirs.output_gate.weight, 0)  # half of everything passes
    x = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        expected = 2 * theirs(x, None, None)[0].unflatten(-1, (4, -1))
        q, k, v = theirs.act_fn(theirs.qkv_proj(x)).unflatten(-1, (4, -1)).chunk(3, -1)
    problem = recurra.layer("gla", WIDTH, key_width=WIDTH, temperature=1.0).double().problem(x)
    values = {"q": q * math.sqrt(8), "k": k, "v": v}
    values["forget"] = torch.logit(torch.exp(-theirs.slope_rate))[:, 0].expand_as(q)
    inputs = {name: replace(entry, tensor=values[name]) for name, entry in problem.inputs.items()}
    same_core(replace(problem, inputs=inputs), expected)


def test_slstm_is_that_of_xlstm():
    """The cell with its gates' maps. In their layer, `fgate` feeds the input gate and `igate` the forget gate."""
    peer = pytest.importorskip("xlstm.blocks.slstm.layer")
    config = peer.sLSTMLayerConfig(
        embedding_dim=WIDTH, num_heads=4, conv1d_kernel_size=0, backend="vanilla", dtype="float32",
        enable_automatic_mixed_precision=False,
    )  # fmt: skip
    theirs = scattered(peer.sLSTMLayer(config), torch.float64)
    cell, gates = theirs.slstm_cell, (theirs.fgate, theirs.igate, theirs.zgate, theirs.ogate)
    weights = {
        "weight": torch.cat([gate.weight for gate in gates], 1),
        "recurrent": cell._recurrent_kernel_,
        "bias": cell._bias_.unflatten(0, (4, 4, -1)).transpose(0, 1).flatten(1),
    }
    x = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)
    same(
        recurra.layer("slstm", WIDTH, heads=4).double(), weights, theirs, x,
        lambda x: cell(torch.cat([gate(x) for gate in gates], -1))[0].transpose(1, 2).flatten(2),
    )  # fmt: skip


def test_min_gru_is_that_of_mingru_pytorch():
    peer = pytest.importorskip("minGRU_pytorch")
    theirs = scattered(peer.minGRU(WIDTH), torch.float64)
    value, gate = theirs.to_hidden_and_gate.weight.chunk(2)
    zero = torch.zeros(WIDTH, dtype=torch.float64)
    weights = {"to_gate.weight": gate, "to_gate.bias": zero, "to_value.weight": value, "to_value.bias": zero}
    x = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)
    same(recurra.layer("min-gru", WIDTH).double(), weights, theirs, x)


def test_min_lstm_is_that_of_mingru_pytorch():
    peer = pytest.importorskip("minGRU_pytorch.minLSTM")
    theirs = scattered(peer.minLSTM(WIDTH), torch.float64)
    value, forget, admit = theirs.to_hidden_and_f_i_gate.weight.chunk(3)
    weights = {"to_forget.weight": forget, "to_input.weight": admit, "to_value.weight": value}
    weights |= {name.replace("weight", "bias"): torch.zeros(WIDTH) for name in weights}
    x = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)
    same(recurra.layer("min-lstm", WIDTH).double(), weights, theirs, x)


@pytest.mark.parametrize("depth", [1, 2])
def test_titans_core_is_that_of_titans_pytorch(depth):
    """Chunks and batches of one, where their gradients are taken at the memory as it is, as ours are always; theirs are
    otherwise taken at the memory of the last batch. Their loss is a mean over channels, so rates are K times larger;
    without their norms, and with silu for their gelu, the network is ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it imports uses torch.jit
        peer = pytest.importorskip("titans_pytorch", exc_type=ImportError)
    K = WIDTH // 2
    ours = recurra.layer("titans", WIDTH, heads=2, depth=depth).double()

    class Network(nn.Module):
        """Depth maps of K channels, hidden ones of 2 K, with silu between them."""

        def __init__(self):
            super().__init__()
            sizes = [K, *[2 * K] * (depth - 1), K]
            self.weights = nn.ParameterList(torch.randn(a, b) for a, b in pairwise(sizes))

        def forward(self, x):
            *hidden, last = self.weights
            for weight in hidden:
                x = nn.functional.silu(x @ weight)
            return x @ last

    theirs = peer.NeuralMemory(
        WIDTH, chunk_size=1, batch_size=1, dim_head=K, heads=2, model=Network(), pre_rmsnorm=False,
        mem_model_norm_add_residual=False, adaptive_step_transform=lambda rate: K * rate.sigmoid(),
    )  # fmt: skip
    scattered(theirs, torch.float64)
    theirs.retrieve_gate, theirs.combine_heads = None, nn.Identity()
    with torch.no_grad():
        # Larger steps would end in infinity, in theirs as in ours, and more forgetting in zero.
        theirs.to_adaptive_step[0].bias -= 9
        theirs.to_decay_factor[0].bias -= 4
        theirs.to_keys.weight *= 0.5
        for weight in theirs.memory_model_parameters:
            weight *= 0.5
        for memory, weight in zip(ours.memory, theirs.memory_model_parameters, strict=True):
            memory.copy_(weight.mT)
        x = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)
        problem = ours.problem(x)
        linear = {"q": theirs.to_queries, "k": theirs.to_keys, "v": theirs.to_values}
        values = {name: project(x).unflatten(-1, (2, -1)) for name, project in linear.items()}
        rates = {"alpha": theirs.to_decay_factor, "eta": theirs.to_momentum, "theta": theirs.to_adaptive_step}
        values |= {name: project[0](x) for name, project in rates.items()}
        inputs = {name: replace(entry, tensor=values[name]) for name, entry in problem.inputs.items()}
        expected = theirs(x)[0].unflatten(-1, (2, -1))
    same_core(replace(problem, inputs=inputs), expected)


@pytest.mark.parametrize(("key_heads", "value_heads"), [(2, 4), (2, 2)])
@pytest.mark.usefixtures("all_in_double")
def test_gated_delta_net_is_that_of_transformers(key_heads, value_heads, qwen3_next):
    config = qwen3_next.Qwen3NextConfig(
        hidden_size=24, linear_num_key_heads=key_heads, linear_num_value_heads=value_heads, linear_key_head_dim=6,
        linear_value_head_dim=10, linear_conv_kernel_dim=4, num_hidden_layers=1, layer_types=["linear_attention"],
    )  # fmt: skip
    theirs = scattered(qwen3_next.Qwen3NextGatedDeltaNet(config, 0), torch.float64)
    ours = recurra.layer(
        "gated-delta-net", 24, heads=value_heads, key_heads=key_heads, key_size=6, value_size=10,
        norm_eps=config.rms_norm_eps,
    )  # fmt: skip
    names = {
        "in_proj_qkvz.weight": "to_qkvz.weight",
        "in_proj_ba.weight": "to_ba.weight",
        "conv1d.weight": "conv_weight",
        "dt_bias": "dt_bias",
        "A_log": "A_log",
        "norm.weight": "norm_weight",
        "out_proj.weight": "to_output.weight",
    }
    weights = {names[name]: value for name, value in theirs.named_parameters()}
    weights["conv_weight"] = weights["conv_weight"].squeeze(1)
    x = torch.randn(2, 70, 24, dtype=torch.float64)  # longer than one of their chunks
    same(ours.double(), weights, theirs, x)
