"""Other people's layers, each as a function of x, or None where the package is not installed."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch

Layer = Callable[[torch.Tensor], Any]


def _optional(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(*args: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return make(*args)
        except ImportError:
            return None

    return made


def compiled(module: torch.nn.Module, call: Callable[[torch.nn.Module], Any]) -> torch.nn.Module | None:
    """The module under torch.compile with its kernels tuned, or None if `call` of it fails."""
    tuned = torch.compile(module, mode="max-autotune")
    try:
        call(tuned)
    except Exception as error:  # whatever a compiler may raise
        print(f"torch.compile of {type(module).__name__}: {str(error).splitlines()[0]}", flush=True)
        return None
    return tuned


@_optional
def transformers_mamba(width: int) -> torch.nn.Module:
    """MambaMixer on its reference path."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    return MambaMixer(MambaConfig(hidden_size=width, state_size=16), 0).train()


@_optional
def transformers_gated_delta_rule() -> Callable[..., Any]:
    """Qwen3-Next's delta rule in PyTorch: (q, k, v, log_decay, beta) to (o, state)."""
    return importlib.import_module("transformers.models.qwen3_next.modeling_qwen3_next").torch_chunk_gated_delta_rule


@_optional
def transformers_model(kind: str, width: int, layers: int) -> torch.nn.Module:
    """A language model over bytes of transformers: mamba, mamba2 or rwkv, with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": width, "num_hidden_layers": layers, "vocab_size": 256}
    more = {
        "mamba": {},
        "mamba2": {"num_heads": 2 * width // 64, "head_dim": 64, "n_groups": 1},
        "rwkv": {"attention_hidden_size": width, "context_length": 1024},
    }
    config = AutoConfig.for_model(kind, **sizes, **more[kind], bos_token_id=0, eos_token_id=0, pad_token_id=0)
    return AutoModelForCausalLM.from_config(config)


@_optional
def mambapy(width: int) -> torch.nn.Module:
    """mambapy's block with its scan in PyTorch."""
    module = importlib.import_module("mambapy.mamba")
    return module.MambaBlock(module.MambaConfig(d_model=width, n_layers=1))


@_optional
def xlstm_slstm(width: int, heads: int) -> torch.nn.Module:
    """xlstm's sLSTM layer with its vanilla backend, without the convolution."""
    from xlstm.blocks.slstm.layer import sLSTMLayer, sLSTMLayerConfig

    config = sLSTMLayerConfig(embedding_dim=width, num_heads=heads, conv1d_kernel_size=0, backend="vanilla")
    config.__post_init__()
    return sLSTMLayer(config)


@_optional
def xlstm_mlstm() -> Callable[..., Any]:
    """xlstm's mLSTM in its parallel form, quadratic in time: (q, k, v, i, f), heads before time, to h."""
    return importlib.import_module("xlstm.blocks.mlstm.backends").parallel_stabilized_simple


@_optional
def mingru(width: int) -> torch.nn.Module:
    """minGRU-pytorch's layer."""
    return importlib.import_module("minGRU_pytorch").minGRU(width)


@_optional
def jax_leaky(width: int, x: torch.Tensor) -> Callable[[], Any]:
    """The README's recurrence as jax.lax.scan under jax.grad, compiled."""
    import jax
    from jax import numpy as jnp

    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    parameters = (jax.random.normal(keys[0], (width, width)) * width**-0.5, jnp.zeros(width))
    values = jnp.asarray(x.detach().numpy()).swapaxes(0, 1)

    def loss(parameters: Any, x: Any) -> Any:
        weight, bias = parameters
        gates = x @ weight + bias

        def step(h: Any, now: Any) -> Any:
            x_t, gate = now
            h = h + jax.nn.sigmoid(gate) * (jnp.tanh(x_t + h) - h)
            return h, h

        return jax.lax.scan(step, jnp.zeros(x.shape[1:]), (x, gates))[1].sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return lambda: jax.block_until_ready(gradient(parameters, values))
