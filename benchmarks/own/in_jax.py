"""Ten of the recurrences as jax.lax.scan under jax.grad, compiled, with the weights of ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from recurra import Recurrence

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
"""For XLA, as PyTorch has one here."""


def gradients(layer: Recurrence, x: torch.Tensor) -> tuple[Callable[[], Any], Callable[[], Any]] | None:
    """The same training step in JAX, of one of the ten: a function that runs it, and one that gives y. None without
    JAX."""
    os.environ.setdefault("XLA_FLAGS", ONE_THREAD)
    try:
        import jax
    except ImportError:
        return None
    inputs, step = STEPS[getattr(layer, "title", "the README's own")]
    weights = {name: jax.numpy.asarray(p.detach().numpy()) for name, p in layer.named_parameters()}
    start = tuple(
        jax.numpy.broadcast_to(jax.numpy.asarray(s.detach().numpy()), (len(x), *s.shape))
        for s in layer.start().values()
    )
    values = jax.numpy.asarray(x.detach().numpy()).swapaxes(0, 1)

    def run(weights: Any, x: Any) -> Any:
        return jax.lax.scan(lambda state, now: step(weights, state, *now), start, inputs(weights, x))[1]

    gradient = jax.jit(jax.grad(lambda weights, x: run(weights, x).sum(), argnums=(0, 1)))
    return (
        lambda: jax.block_until_ready(gradient(weights, values)),
        lambda: torch.from_numpy(jax.device_get(jax.jit(run)(weights, values)).copy()).transpose(0, 1),
    )


# --- what they are written with -----------------------------------------------------------------------------------
def _linear(w: dict, name: str, x: Any) -> Any:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def _norm(w: dict, name: str, x: Any) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x / _numpy().sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _numpy() -> Any:
    from jax import numpy

    return numpy


def _nn() -> Any:
    from jax import nn

    return nn


def _parts(x: Any, count: int) -> Any:
    return _numpy().split(x, count, -1)


def _lstm(gates: Any, c: Any, norm: Callable = lambda c: c) -> Any:
    sigmoid, tanh = _nn().sigmoid, _numpy().tanh
    i, f, g, o = _parts(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(norm(c)), c


# --- the ten ------------------------------------------------------------------------------------------------------
def _peephole(w: dict, state: Any, x: Any) -> Any:
    sigmoid, tanh = _nn().sigmoid, _numpy().tanh
    r, c = state
    i, f, g, o = _parts(x + _linear(w, "from_r", r), 4)
    at_i, at_f, at_o = w["peepholes"]
    i, f = sigmoid(i + at_i * c), sigmoid(f + at_f * c)
    c = f * c + i * tanh(g)
    r = _linear(w, "project", sigmoid(o + at_o * c) * tanh(c))
    return (r, c), r


def _layer_norm(w: dict, state: Any, x: Any) -> Any:
    h, c = state
    gates = x + _norm(w, "from_h.1", _linear(w, "from_h.0", h))
    h, c = _lstm(gates, c, lambda c: _norm(w, "norm", c))
    return (h, c), h


def _cornn(w: dict, state: Any, x: Any) -> Any:
    y, z = state
    driven = _numpy().tanh(x + _linear(w, "from_state", _numpy().concatenate([y, z], -1)))
    z = z + 0.05 * (driven - 2.0 * y - z)
    y = y + 0.05 * z
    return (y, z), y


def _lem(w: dict, state: Any, x: Any) -> Any:
    sigmoid, tanh = _nn().sigmoid, _numpy().tanh
    y, z = state
    slow, fast, to_z, to_y = _parts(x, 4)
    of_slow, of_fast, of_z = _parts(_linear(w, "from_y", y), 3)
    z = z + sigmoid(slow + of_slow) * (tanh(to_z + of_z) - z)
    y = y + sigmoid(fast + of_fast) * (tanh(to_y + _linear(w, "from_z", z)) - y)
    return (y, z), y


def _sru(w: dict, state: Any, x: Any, value: Any, f: Any, r: Any) -> Any:
    (c,) = state
    of_f, of_r = w["of_c"]
    f, r = _nn().sigmoid(f + of_f * c), _nn().sigmoid(r + of_r * c)
    c = f * c + (1 - f) * value
    return (c,), r * c + (1 - r) * x


def _mgu(w: dict, state: Any, f: Any, c: Any) -> Any:
    (h,) = state
    f = _nn().sigmoid(f + _linear(w, "to_gate", h))
    h = (1 - f) * h + f * _numpy().tanh(c + _linear(w, "to_candidate", f * h))
    return (h,), h


def _highway(w: dict, state: Any, x: Any) -> Any:
    (s,) = state
    for i in range(3):
        gates = _linear(w, f"layers.{i}", s)
        h, t = _parts(gates + x if i == 0 else gates, 2)
        s = s + _nn().sigmoid(t) * (_numpy().tanh(h) - s)
    return (s,), s


def _hyper(w: dict, state: Any, x: Any, hyper_x: Any) -> Any:
    h, c, hyper_h, hyper_c = state
    gates = hyper_x + _linear(w, "hyper_h", _numpy().concatenate([h, hyper_h], -1))
    hyper_h, hyper_c = _lstm(gates, hyper_c)
    embedded = _linear(w, "embed", hyper_h).reshape(*h.shape[:-1], 12, -1)
    scales = _numpy().einsum("kde,bke->bkd", w["scale"], embedded).reshape(*h.shape[:-1], -1)
    of_h, of_x, bias = _parts(scales, 3)
    h, c = _lstm(of_h * _linear(w, "from_h", h) + of_x * x + bias, c)
    return (h, c, hyper_h, hyper_c), h


def _stack(w: dict, state: Any, x: Any) -> Any:
    concatenate = _numpy().concatenate
    h, stack = state
    h = _nn().sigmoid(x + _linear(w, "from_h", h) + _linear(w, "from_stack", stack[..., :2]))
    push, pop, stay = _parts(_nn().softmax(_linear(w, "to_action", h), -1), 3)
    pushed = concatenate([_nn().sigmoid(_linear(w, "to_push", h)), stack[..., :-1]], -1)
    popped = concatenate([stack[..., 1:], 0 * stack[..., :1]], -1)
    return (h, push * pushed + pop * popped + stay * stack), h


def _leaky(w: dict, state: Any, x: Any, gate: Any) -> Any:  # noqa: ARG001
    (h,) = state
    h = h + _nn().sigmoid(gate) * (_numpy().tanh(x + h) - h)
    return (h,), h


def _from_x(w: dict, x: Any) -> Any:
    return (_linear(w, "from_x", x),)


Inputs = Callable[[dict, Any], Any]
STEPS: dict[str, tuple[Inputs, Callable]] = {
    "peephole LSTM, projected": (_from_x, _peephole),
    "layer-norm LSTM": (lambda w, x: (_norm(w, "from_x.1", _linear(w, "from_x.0", x)),), _layer_norm),
    "coRNN": (_from_x, _cornn),
    "LEM": (_from_x, _lem),
    "SRU": (lambda w, x: (x, *_parts(_linear(w, "from_x", x), 3)), _sru),
    "MGU": (lambda w, x: tuple(_parts(_linear(w, "from_x", x), 2)), _mgu),
    "recurrent highway, depth 3": (_from_x, _highway),
    "HyperLSTM": (lambda w, x: (_linear(w, "from_x", x), _linear(w, "hyper_x", x)), _hyper),
    "stack RNN, 16 deep": (_from_x, _stack),
    "the README's own": (lambda w, x: (x, _linear(w, "to_gate", x)), _leaky),
}
"""By title: what is read at each time step, for all of them, and the step."""
