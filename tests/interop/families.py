"""Tiny random models of transformers, one or more per family, odd in size where the family allows it."""

import torch

SMALL = {"vocab_size": 37, "hidden_size": 12, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0}

CASES = {
    "mamba": ("Mamba", {**SMALL, "state_size": 5, "expand": 3, "conv_kernel": 3, "time_step_rank": 2}),
    "mamba, with biases": ("Mamba", {**SMALL, "use_bias": True, "use_conv_bias": False, "residual_in_fp32": False}),
    "mamba, untied": ("Mamba", {**SMALL, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3}),
    "falcon_mamba": ("FalconMamba", {**SMALL, "state_size": 5, "mixer_rms_eps": 1e-3}),
    "falcon_mamba, with biases": ("FalconMamba", {**SMALL, "use_bias": True, "tie_word_embeddings": False}),
}
"""What is tested -> the class in transformers, without its ending, and its config."""


def build(case, dtype=torch.float32):
    """The model, evaluating, its weights all random: none at a value, such as zero, that hides a mistake."""
    import transformers

    kind, options = CASES[case]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
