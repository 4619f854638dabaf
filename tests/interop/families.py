"""Tiny random models of transformers, one or more per family, odd in size where the family allows it."""

import torch

SMALL = {"vocab_size": 37, "hidden_size": 12, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0}
MAMBA2 = {"state_size": 5, "num_heads": 6, "head_dim": 4, "n_groups": 3, "conv_kernel": 3, "chunk_size": 16}
XLSTM = {"hidden_size": 24, "num_heads": 3, "ffn_round_up_to_multiple_of": 5, "autocast_kernel_dtype": "float32"}
OTHER = {
    "qk_dim_factor": 1.5,
    "v_dim_factor": 0.5,
    "norm_eps": 1e-3,
    "gate_soft_cap": 3.0,
    "output_logit_soft_cap": 2.0,
}
GEMMA = {"num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 26, "attention_window_size": 9}
SHARING = {
    "num_key_value_heads": 1, "lru_width": 18, "conv1d_width": 3, "logits_soft_cap": 2.0,
    "block_types": ["attention", "recurrent"], "rms_norm_eps": 1e-3, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 1.0},
}  # fmt: skip

CASES = {
    "mamba": ("Mamba", {**SMALL, "state_size": 5, "expand": 3, "conv_kernel": 3, "time_step_rank": 2}),
    "mamba, with biases": ("Mamba", {**SMALL, "use_bias": True, "use_conv_bias": False, "residual_in_fp32": False}),
    "mamba, untied": ("Mamba", {**SMALL, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3}),
    "falcon_mamba": ("FalconMamba", {**SMALL, "state_size": 5, "mixer_rms_eps": 1e-3}),
    "falcon_mamba, with biases": ("FalconMamba", {**SMALL, "use_bias": True, "tie_word_embeddings": False}),
    "mamba2": ("Mamba2", {**SMALL, **MAMBA2}),
    "mamba2, tied": ("Mamba2", {**SMALL, **MAMBA2, "n_groups": 1, "use_conv_bias": False, "tie_word_embeddings": True}),
    "recurrent_gemma": ("RecurrentGemma", {**SMALL, **GEMMA}),
    "recurrent_gemma, sharing keys": ("RecurrentGemma", {**SMALL, **GEMMA, **SHARING}),
    "rwkv": ("Rwkv", {**SMALL, "attention_hidden_size": 20, "intermediate_size": 15}),
    "rwkv, tied": ("Rwkv", {**SMALL, "tie_word_embeddings": True}),
    "rwkv, halved": ("Rwkv", {**SMALL, "num_hidden_layers": 4, "rescale_every": 1}),
    "xlstm": ("xLSTM", {**SMALL, **XLSTM}),
    "xlstm, other factors": ("xLSTM", {**SMALL, **XLSTM, **OTHER, "tie_word_embeddings": True}),
}
"""What is tested -> the class in transformers, without its ending, and its config."""


def build(case, dtype=torch.float32):
    """The model, evaluating, its weights all random: none at a value, such as zero, that hides a mistake."""
    import transformers

    kind, options = CASES[case]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype).eval()
    if kind == "xLSTM" and dtype == torch.float64:  # its config has no name for a state in float64
        for block in model.backbone.blocks:
            block.mlstm_layer.mlstm_backend.config.inference_state_dtype = "float64"
    if kind == "RecurrentGemma" and dtype == torch.float64:  # angles are computed from these, rounded to float32
        for block in model.model.layers:
            if hasattr(block.temporal_block, "rotary_emb"):
                rotary = block.temporal_block.rotary_emb
                count, base = len(rotary.inv_freq), config.rope_parameters["rope_theta"]
                rotary.inv_freq = base ** -(torch.arange(count, dtype=dtype) / count)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
