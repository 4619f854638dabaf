"""Modules of `torch.nn` by this machine's fastest ways: Linear, RNN, LSTM and GRU, with PyTorch's own parameters.

The cells are PyTorch's own: a single time step is a product and a few operations on its result, and a loop in Python
around it has nothing that could be compiled.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "GRU": "recurra.nn.recurrent",
    "GRUCell": "torch.nn",
    "LSTM": "recurra.nn.recurrent",
    "LSTMCell": "torch.nn",
    "Linear": "recurra.nn.linear",
    "RNN": "recurra.nn.recurrent",
    "RNNCell": "torch.nn",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import on first use: layers need `linear` only, and the others need the layers."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'recurra.nn' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
