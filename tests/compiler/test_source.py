"""What is written for every layer, to the letter: a change of the generated source is a decision, never an accident.

`python tests/compiler/test_source.py` writes the digests anew; the commit that does so says why they changed.
"""

import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import llvmlite
import pytest
import torch

import recurra
from recurra.compiler.targets import cache, host
from recurra.engines import affine, compiled, traced
from recurra.engines.kernels import operator, threads, window
from recurra.engines.stepping import single
from recurra.recurrence import Recurrence
from recurra.windows import Past

DIGESTS = Path(__file__).with_name("sources.json")
PROCESSORS = {"avx2": 32, "avx512": 64}
"""Descriptions of processors: bytes in a vector."""
LAYERS = [name for name, kind in recurra.layers().items() if issubclass(kind, Recurrence)]


def only_write(monkeypatch):
    """Kernels are written and not compiled, for a processor of our choice, two threads and nothing known before."""
    texts = []

    def get(_key, write, _about):
        kernel = write()
        texts.append(kernel.ir)
        return SimpleNamespace(source=None, pointers=kernel.pointers)

    def on(processor):
        texts.clear()
        monkeypatch.setattr(host, "vector_bytes", lambda: PROCESSORS[processor])
        monkeypatch.setattr(traced, "_traces", OrderedDict())
        monkeypatch.setattr(affine.FreeStep, "_readings", {})
        monkeypatch.setattr(single, "_recipes", {})
        return texts

    monkeypatch.setattr(cache, "get", get)
    monkeypatch.setattr(threads, "count", lambda: 2)
    return on


def write_layer(name, dtype, resets=None, lengths=None):
    """Both ways of a layer, and its single time step."""
    layer = recurra.layer(name, 16).to(dtype)
    x, state = torch.zeros(4, 6, layer.width, dtype=dtype), layer.initial_state(4)
    past = Past(layer.windows, state, resets, lengths, True)
    problem = layer._problem(x, state, resets, lengths, past, {})
    operator.sources(compiled.plan_of(problem), problem)
    weights = dict(layer.named_parameters()) | dict(layer.named_buffers())
    single._made(layer, x[:1, 0], {name: value[:1] for name, value in state.items()}, weights)


def write_windows():
    held, signal = torch.zeros(2, 3, 16), torch.zeros(2, 5, 16)
    weights = {"weight": torch.zeros(16, 4), "bias": torch.zeros(16)}
    steps = {"convolve": window._convolve, "convolve, silu": window._convolve_silu}
    problems = [window._problem(window.FreeStep(n, s), held, signal, weights, None, None) for n, s in steps.items()]
    mix = window.FreeStep("mix", window._mix)
    problems.append(window._problem(mix, held[:, :1], signal, {"shares": torch.zeros(16, 3)}, None, None))
    for problem in problems:
        operator.sources(compiled.plan_of(problem), problem)


def digests(name, on):
    """Of all that is written for a layer, or for windows."""
    found = {}
    for processor in PROCESSORS:
        texts = on(processor)
        if name == "windows":
            write_windows()
        else:
            write_layer(name, torch.float32)
            write_layer(name, torch.float64, torch.zeros(4, 6, dtype=torch.bool), torch.full((4,), 6))
        assert texts
        found[processor] = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    return found


@pytest.mark.parametrize("name", [*LAYERS, "windows"])
def test_source_is_what_it_was(name, monkeypatch):
    known = json.loads(DIGESTS.read_text())
    if (known["torch"], known["llvmlite"]) != (torch.__version__.split("+")[0], llvmlite.__version__):
        pytest.skip("PyTorch traces another graph; the digests hold for the pinned versions")
    assert digests(name, only_write(monkeypatch)) == known["sources"][name]


def main():
    with pytest.MonkeyPatch.context() as patch:
        on = only_write(patch)
        sources = {name: digests(name, on) for name in [*LAYERS, "windows"]}
    versions = {"torch": torch.__version__.split("+")[0], "llvmlite": llvmlite.__version__}
    DIGESTS.write_text(json.dumps(versions | {"sources": sources}, indent=1) + "\n")


if __name__ == "__main__":
    main()
