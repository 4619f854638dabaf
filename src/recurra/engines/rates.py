"""How fast this machine is at what engines are made of: the constants of the cost model, measured by `calibrate`."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from recurra.compiler.targets import cache, host
from recurra.engines.kernels import threads
from recurra.files import own_folder, read_json, write_atomically


@dataclass(frozen=True)
class Speeds:
    """Seconds per multiply-add of a large product of float32 matrices, on all threads, by each way there is."""

    torch: float
    onednn: float


def _onednn() -> float:
    return 2.5e-12 if torch.backends.mkl.is_available() and host.is_held_back() else 5e-12


@dataclass(frozen=True)
class Rates:
    """Seconds per unit of work. The defaults are those of a small server of 2024."""

    instruction: float = 2.5e-10
    """One vector instruction of a compiled loop, on one thread."""
    step: float = 5e-9
    """One time step of a compiled loop over a handful of lanes: what cannot be made shorter by more lanes."""
    byte: float = 1e-10
    """One byte to or from memory, by all threads together."""
    call: float = 5e-5
    """One call of a compiled loop."""
    operation: float = 4e-6
    """One PyTorch operation on next to nothing."""
    element: float = 2e-10
    """One number through a pointwise PyTorch operation."""
    transform: float = 1e-10
    """One number through one doubling of a Fourier transform."""
    product: float = 5e-12
    """One multiply-add of a large product of float32 matrices by PyTorch's own way."""
    product_onednn: float = field(default_factory=_onednn)
    """The same by oneDNN."""

    @property
    def gain(self) -> float:
        """Seconds that oneDNN saves of a multiply-add."""
        return self.product - self.product_onednn


@dataclass(frozen=True)
class Estimate:
    """What a run forward is expected to take."""

    seconds: float
    bytes: int
    """Memory beyond inputs and outputs."""


@functools.cache
def current() -> Rates:
    """The rates of this machine, if `calibrate` has measured them, else the defaults."""
    try:
        stored = read_json(_file())
        found = {field.name: float(stored[field.name]) for field in fields(Rates)}
        return Rates(**found) if all(0 < value < math.inf for value in found.values()) else Rates()
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return Rates()


def keep(rates: Rates) -> None:
    """Make these the rates of this machine, here and in later processes. Raises OSError if they cannot be written."""
    own_folder(_file().parent)  # it may be the first file there
    write_atomically(_file(), json.dumps(asdict(rates), indent=2).encode())
    current.cache_clear()


def _file() -> Path:
    return cache.folder() / f"rates-{threads.count()}.json"
