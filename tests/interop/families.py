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
HYBRID = {**SMALL, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 15, "pad_token_id": None}
INSIDE = {
    "mamba_n_heads": 6, "mamba_d_head": 4, "mamba_n_groups": 3, "mamba_d_state": 5, "mamba_d_conv": 3,
    "mamba_chunk_size": 16,
}  # fmt: skip
BIASED = {"attention_bias": True, "mlp_bias": True, "mamba_conv_bias": False, "tie_word_embeddings": True}
FALCON_H1 = {
    **HYBRID, **INSIDE, "mamba_d_ssm": 24, "mlp_multipliers": [0.3, 0.4], "key_multiplier": 0.7,
    "ssm_multipliers": [0.5, 0.625, 0.75, 0.875, 1.25], "attention_in_multiplier": 1.3, "attention_out_multiplier": 0.6,
    "ssm_in_multiplier": 1.2, "ssm_out_multiplier": 0.8, "lm_head_multiplier": 0.4, "embedding_multiplier": 2.2,
}  # fmt: skip
GRANITE = {**HYBRID, **INSIDE, "layer_types": ["linear_attention", "full_attention"], "shared_intermediate_size": 7}
SCALED = {
    "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.4, "attention_multiplier": 0.3,
    "num_local_experts": 4, "position_embedding_type": "rope",
}  # fmt: skip
NEMOTRON = {
    **{name: value for name, value in HYBRID.items() if name != "num_hidden_layers"},
    "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "moe"], "head_dim": 5,
    "ssm_state_size": 5, "mamba_num_heads": 6, "mamba_head_dim": 3, "n_groups": 2, "conv_kernel": 3, "chunk_size": 16,
    "moe_intermediate_size": 7, "moe_shared_expert_intermediate_size": 9, "n_group": 4, "topk_group": 2,
    "routed_scaling_factor": 1.3, "num_experts_per_tok": 3, "time_step_min": 0.03,
}  # fmt: skip
JAMBA = {
    **HYBRID, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "mamba_d_state": 5, "mamba_d_conv": 3,
    "mamba_expand": 3, "mamba_dt_rank": 3, "num_hidden_layers": 3,
}  # fmt: skip
NET = {
    **HYBRID, "linear_key_head_dim": 4, "linear_value_head_dim": 6, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_conv_kernel_dim": 3, "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip
ALIKE = {"linear_key_head_dim": 6, "linear_value_head_dim": 3}  # as many channels of keys as of values
QWEN = {**NET, "head_dim": 8, "moe_intermediate_size": 7, "shared_expert_intermediate_size": 5}
MIXED = {"num_experts": 4, "num_experts_per_tok": 2}
FACTORS = {
    "full_attn_alpha_factor": 1.2, "full_attn_beta_factor": 0.7, "linear_attn_alpha_factor": 0.9,
    "linear_attn_beta_factor": 1.1, "mlp_alpha_factor": 1.3, "mlp_beta_factor": 0.8,
}  # fmt: skip
MINIMAX = {**HYBRID, "num_local_experts": 4, "num_hidden_layers": 4, "block_size": 16}
LFM2 = {
    **HYBRID, "layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3, "block_multiple_of": 7,
    "conv_L_cache": 4,
}  # fmt: skip
KIMI = {
    **{**HYBRID, "num_key_value_heads": 3}, "linear_head_dim": 4, "linear_num_heads": 2, "linear_conv_kernel_dim": 3,
    "num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse"], "kv_lora_rank": 6, "qk_rope_head_dim": 4, "v_head_dim": 5,
    "qk_nope_head_dim": 3, "n_group": 2, "num_local_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 7,
    "n_shared_experts": 2,
}  # fmt: skip
LFM3 = {
    **HYBRID, "layer_types": ["conv", "full_attention", "sliding_attention"], "num_hidden_layers": 3, "head_dim": 8,
    "sliding_window": 9, "conv_L_cache": 4,
}  # fmt: skip
NEAR = {"rope_type": "proportional", "rope_theta": 50.0, "partial_rotary_factor": 0.75}
LING = {
    **{name: value for name, value in KIMI.items() if not name.startswith("linear_")}, "head_dim": 4, "topk_group": 1,
    "short_conv_kernel_size": 3, "num_nextn_predict_layers": 0,
}  # fmt: skip
ZAMBA = {
    **HYBRID, "num_hidden_layers": 5, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 5,
    "mamba_d_conv": 3, "mamba_expand": 3, "n_mamba_heads": 4, "mamba_dt_rank": 2,
}  # fmt: skip
ZAMBA2 = {
    **HYBRID, "num_key_value_heads": 3, "num_hidden_layers": 5, "mamba_d_state": 5, "mamba_d_conv": 3,
    "n_mamba_heads": 6, "mamba_ngroups": 3, "adapter_rank": 2, "chunk_size": 16, "time_step_min": 0.03,
    "layers_block_type": ["hybrid", "linear_attention", "hybrid", "hybrid", "linear_attention"],
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
    "bamba": ("Bamba", {**HYBRID, **INSIDE, "attn_layer_indices": [1]}),
    "bamba, with biases": ("Bamba", {**HYBRID, **INSIDE, **BIASED, "attn_layer_indices": [0]}),
    "falcon_h1": ("FalconH1", FALCON_H1),
    "falcon_h1, normed": (
        "FalconH1",
        {
            **HYBRID,
            **INSIDE,
            "mamba_d_ssm": None,
            "head_dim": 6,
            "tie_word_embeddings": True,
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": False,
        },
    ),
    "granitemoehybrid": ("GraniteMoeHybrid", {**GRANITE, **SCALED}),
    "granitemoehybrid, without experts": (
        "GraniteMoeHybrid",
        {**GRANITE, "num_local_experts": 0, "attention_bias": True, "position_embedding_type": "rope"},
    ),
    "nemotron_h": ("NemotronH", NEMOTRON),
    "nemotron_h, with latents": ("NemotronH", {**NEMOTRON, "moe_latent_size": 6, "norm_topk_prob": False}),
    "jamba": ("Jamba", JAMBA),
    "jamba, with biases": ("Jamba", {**JAMBA, "mamba_proj_bias": True, "mamba_conv_bias": False, "num_experts": 1}),
    "qwen3_next": ("Qwen3Next", {**QWEN, **MIXED, "mlp_only_layers": [0]}),
    "qwen3_next, without experts": ("Qwen3Next", {**QWEN, "num_experts": 0, "attention_bias": True}),
    "qwen3_5_text": ("Qwen3_5Text", QWEN),
    "qwen3_5_moe_text": ("Qwen3_5MoeText", {**QWEN, **MIXED}),
    "olmo_hybrid": ("OlmoHybrid", {**NET, **ALIKE}),
    "olmo_hybrid, cut elsewhere": ("OlmoHybrid", NET),
    "olmo_hybrid, positive": ("OlmoHybrid", {**NET, **ALIKE, "linear_allow_neg_eigval": False, "attention_bias": True}),
    "minimax": ("MiniMax", {**MINIMAX, **FACTORS, "head_dim": 6}),
    "minimax, without factors": ("MiniMax", {**MINIMAX, "tie_word_embeddings": True}),
    "lfm2": ("Lfm2", LFM2),
    "lfm2, with biases": ("Lfm2", {**LFM2, "conv_bias": True, "block_auto_adjust_ff_dim": False, "conv_L_cache": 1}),
    "lfm2_moe": ("Lfm2Moe", {**LFM2, **MIXED, "num_dense_layers": 1, "moe_intermediate_size": 7, "head_dim": 4}),
    "lfm3": ("Lfm3", LFM3),
    "lfm3, plain": (
        "Lfm3",
        {
            **LFM3,
            "attention_bias": True,
            "use_sandwich_norm": False,
            "use_attention_gate": False,
            "rope_parameters": {
                "sliding_attention": NEAR,
                "full_attention": {"rope_type": "default", "rope_theta": 9.0},
            },
        },
    ),
    "kimi_linear": ("KimiLinear", KIMI),
    "bailing_hybrid": ("BailingHybrid", LING),
    "bailing_hybrid, unbounded": (
        "BailingHybrid",
        {**LING, "kda_safe_gate": False, "layer_types": None, "layer_group_size": 2},
    ),
    "zamba": ("Zamba", ZAMBA),
    "zamba, with biases": (
        "Zamba",
        {
            **ZAMBA,
            "n_mamba_heads": 1,
            "mamba_proj_bias": True,
            "mamba_conv_bias": False,
            "attention_head_dim": 6,
        },
    ),
    "zamba2": ("Zamba2", ZAMBA2),
    "zamba2, in turns": (
        "Zamba2",
        {
            **ZAMBA2,
            "num_mem_blocks": 2,
            "use_shared_attention_adapter": True,
            "use_mem_rope": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
        },
    ),
}
"""What is tested -> the class in transformers, without its ending, and its config."""


def build(case, dtype=torch.float32):
    """The model, evaluating, its weights all random: none at a value, such as zero, that hides a mistake."""
    import transformers

    kind, options = CASES[case]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options)
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config).to(dtype).eval()
    if kind == "xLSTM" and dtype == torch.float64:  # its config has no name for a state in float64, and refuses it
        for block in model.backbone.blocks:
            object.__setattr__(block.mlstm_layer.mlstm_backend.config, "inference_state_dtype", "float64")
    if dtype == torch.float64:  # angles are computed from these, rounded to float32
        for module in model.modules():
            for of in ("", "full_attention_", "sliding_attention_"):
                if hasattr(module, f"{of}inv_freq"):
                    turning = config.rope_parameters[of[:-1]] if of else config.rope_parameters
                    rounded = getattr(module, f"{of}inv_freq")
                    exact = turning["rope_theta"] ** -(torch.arange(len(rounded), dtype=dtype) / len(rounded))
                    setattr(module, f"{of}inv_freq", exact * (rounded != 0))
            if hasattr(module, "get_slope_rate"):  # made of these when it was built, in float32
                torch.set_default_dtype(dtype)
                module.slope_rate = module.get_slope_rate()
                module.query_decay, module.key_decay, module.diagonal_decay = module.decay_factors(module.slope_rate)
                torch.set_default_dtype(torch.float32)
    in_plain_operations(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith(("correction_bias", "expert_bias")):
                buffer.normal_(0, 0.1)
    return model


def in_plain_operations(model):
    """Without the grouped products that transformers take for experts, which have conditions on sizes and types."""
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model
