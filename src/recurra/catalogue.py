"""Every layer of the library, by family: the one list. The command line, the laws, the gallery and the README read it.

A layer is one line: its public name, then its file and class, in `recurra.recurrences` where no other folder is named.
All else that there is to know of it stands in its class.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Layers that are alike."""

    title: str
    about: str
    """What they have in common."""
    layers: dict[str, str]


FAMILIES = {
    "gated": Family(
        "Gated RNNs",
        "Gates decide what is kept and what is written. Where they see the state the step is not affine in it; the "
        "diagonal ones are nonlinear in each channel by itself, and the minimal ones let gates see the input only.",
        {
            "rnn": "rnn.RNN",
            "jordan": "jordan.Jordan",
            "lstm": "lstm.LSTM",
            "gru": "gru.GRU",
            "peephole-lstm": "peephole_lstm.PeepholeLSTM",
            "projected-lstm": "projected_lstm.ProjectedLSTM",
            "layer-norm-lstm": "layer_norm_lstm.LayerNormLSTM",
            "odyssey-lstm": "odyssey_lstm.OdysseyLSTM",
            "ur-lstm": "ur_lstm.URLSTM",
            "multiplicative-lstm": "multiplicative_lstm.MultiplicativeLSTM",
            "slstm": "slstm.SLSTM",
            "janet": "janet.JANET",
            "mgu": "mgu.MGU",
            "ugrnn": "ugrnn.UGRNN",
            "light-gru": "light_gru.LightGRU",
            "ran": "ran.RAN",
            "cfn": "cfn.CFN",
            "star": "star.STAR",
            "minimal-rnn": "minimal_rnn.MinimalRNN",
            "fast-rnn": "fast_rnn.FastRNN",
            "fast-grnn": "fast_grnn.FastGRNN",
            "scrn": "scrn.SCRN",
            "rhn": "rhn.RHN",
            "hyper-lstm": "hyper_lstm.HyperLSTM",
            "quantum-lstm": "quantum_lstm.QuantumLSTM",
            "phased-lstm": "phased_lstm.PhasedLSTM",
            "clockwork-rnn": "clockwork_rnn.ClockworkRNN",
            "ind-rnn": "ind_rnn.IndRNN",
            "sru": "sru.SRU",
            "qrnn": "qrnn.QRNN",
            "pgn": "pgn.PGN",
            "gated-conv": "gated_conv.GatedConv",
            "short-conv": "short_conv.ShortConv",
            "multires-conv": "multires_conv.MultiresConv",
            "fsmn": "fsmn.FSMN",
            "gated-fsmn": "gated_fsmn.GatedFSMN",
            "diagonal-gru": "diagonal_gru.DiagonalGRU",
            "diagonal-lstm": "diagonal_lstm.DiagonalLSTM",
            "min-gru": "min_gru.MinGRU",
            "min-lstm": "min_lstm.MinLSTM",
        },
    ),
    "dynamical": Family(
        "Discretised differential equations",
        "The state follows an equation in continuous time by small explicit steps: what was stable there, or kept its "
        "energy, is so here, and gradients neither vanish nor explode.",
        {
            "antisymmetric-rnn": "antisymmetric_rnn.AntisymmetricRNN",
            "lipschitz-rnn": "lipschitz_rnn.LipschitzRNN",
            "co-rnn": "co_rnn.CoRNN",
            "unicornn": "unicornn.UnICORNN",
            "lem": "lem.LEM",
            "cfc": "cfc.CfC",
            "ltc": "ltc.LTC",
            "ode-rnn": "ode_rnn.ODERNN",
            "gru-d": "gru_d.GRUD",
            "linoss": "linoss.LinOSS",
        },
    ),
    "machines": Family(
        "Stacks, tapes and addressed memories",
        "A small network works a store by degrees: every action is done as far as it is chosen, so that gradients "
        "flow.",
        {
            "stack-rnn": "stack_rnn.StackRNN",
            "tape-rnn": "tape_rnn.TapeRNN",
            "ntm": "ntm.NTM",
            "dnc": "dnc.DNC",
        },
    ),
    "transitions": Family(
        "Linear, with dense transitions",
        "Every input makes a small matrix by which the state is multiplied: it may turn, permute and mix, and the "
        "products of many time steps are found in parallel.",
        {
            "urn": "urn.URN",
            "block-lrnn": "block_lrnn.BlockLRNN",
        },
    ),
    "diagonal": Family(
        "Diagonal linear and state-space layers",
        "Each channel of the state decays, and perhaps turns, on its own; `lmu` mixes a short vector in each. Where "
        "the coefficients are constant in time, all time steps together are a convolution.",
        {
            "s4d": "s4d.S4D",
            "dss": "dss.DSS",
            "s4": "s4.S4",
            "lssl": "lssl.LSSL",
            "h3": "h3.H3",
            "s5": "s5.S5",
            "conv-s5": "conv_s5.ConvS5",
            "lmu": "lmu.LMU",
            "space-time": "space_time.SpaceTime",
            "ema": "ema.EMA",
            "lru": "lru.LRU",
            "s7": "s7.S7",
            "hgrn": "hgrn.HGRN",
            "rg-lru": "rg_lru.RGLRU",
            "griffin": "griffin.Griffin",
            "mamba": "mamba.Mamba",
            "falcon-mamba": "falcon_mamba.FalconMamba",
            "rwkv4-channel-mix": "rwkv4_channel_mix.RWKV4ChannelMix",
        },
    ),
    "linear-attention": Family(
        "Linear attention and relatives",
        "Each head has a matrix to which products of keys and values are added, and which queries read; what is old "
        "may decay. `mlstm`, `xlstm-7b` and `rwkv4`, which has a number for a matrix, are affine but for the maximum "
        "that keeps their numbers small. `aaren` is softmax attention with a fixed query.",
        {
            "linear-attention": "linear_attention.LinearAttention",
            "based": "based.Based",
            "retnet": "retnet.RetNet",
            "gla": "gla.GLA",
            "hgrn2": "hgrn2.HGRN2",
            "mamba2": "mamba2.Mamba2",
            "mamba3": "mamba3.Mamba3",
            "log-linear-mamba2": "log_linear_mamba2.LogLinearMamba2",
            "mlstm": "mlstm.MLSTM",
            "xlstm-7b": "xlstm_7b.XLSTM7B",
            "rwkv4": "rwkv4.RWKV4",
            "rwkv5": "rwkv5.RWKV5",
            "rwkv6": "rwkv6.RWKV6",
            "lightning-attention": "lightning_attention.LightningAttention",
            "light-net": "light_net.LightNet",
            "longhorn": "longhorn.Longhorn",
            "rodimus": "rodimus.Rodimus",
            "gated-slot-attention": "gated_slot_attention.GatedSlotAttention",
            "abc": "bounded_memory.ABC",
            "raven": "raven.Raven",
            "aaren": "aaren.Aaren",
        },
    ),
    "delta-rule": Family(
        "Delta rule",
        "Each head has a matrix that is corrected at a key: what it held there is taken out before the new value is "
        "written.",
        {
            "delta-net": "delta_net.DeltaNet",
            "gated-delta-net": "gated_delta_net.GatedDeltaNet",
            "log-linear-gated-delta-net": "log_linear_gated_delta_net.LogLinearGatedDeltaNet",
            "delta-product": "delta_product.DeltaProduct",
            "rwkv7": "rwkv7.RWKV7",
            "kimi-delta-attention": "kimi_delta_attention.KimiDeltaAttention",
            "gated-delta-net-2": "gated_delta_net_2.GatedDeltaNet2",
            "comba": "comba.Comba",
            "mixture-of-memories": "mom.MixtureOfMemories",
            "gated-oja": "gated_oja.GatedOja",
            "preconditioned-gated-delta-net": "preconditioned_gated_delta_net.PreconditionedGatedDeltaNet",
            "preconditioned-kda": "preconditioned_kda.PreconditionedKDA",
        },
    ),
    "test-time": Family(
        "Test-time memories",
        "The state of a head is a small model, and every time step trains it by one step of gradient descent.",
        {
            "mesa-net": "mesa_net.MesaNet",
            "ttt-linear": "ttt.TTTLinear",
            "ttt-mlp": "ttt.TTTMLP",
            "titans": "titans.Titans",
            "atlas": "atlas.Atlas",
            "moneta": "moneta.Moneta",
            "yaad": "yaad.Yaad",
            "memora": "memora.Memora",
        },
    ),
    "attention": Family(
        "Attention",
        "What is kept grows with time, and every time step looks at all of it. As a step over a growing state it is "
        "streamed, reset and packed like all others, and mixes with them: `gated-delta-net*3+attention` is a common "
        "hybrid, `rg-lru*2+local-attention` the layer pattern of Griffin. `local-attention` keeps a fixed number of "
        "time steps, `tcnca` those of a chunk, `rat` one entry for every 16.",
        {
            "attention": "attention/causal.CausalAttention",
            "local-attention": "attention/causal.LocalAttention",
            "forgetting-attention": "attention/forgetting.ForgettingAttention",
            "path-attention": "attention/path.PathAttention",
            "wall-attention": "attention/wall.WallAttention",
            "delta-former": "attention/delta_former.DeltaFormer",
            "parallax": "attention/parallax.Parallax",
            "mega": "attention/mega.Mega",
            "tcnca": "attention/tcnca.TCNCA",
            "latent-attention": "attention/latent.LatentAttention",
            "rat": "attention/rat.RAT",
        },
    ),
}
