"""Uninitialised memory is filled with NaN in every test, so that a forgotten element cannot pass by luck."""

import signal
from inspect import isfunction, unwrap

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is. The fixtures below may be shared by examples.
settings.register_profile(
    "recurra", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("recurra")


@pytest.fixture(autouse=True)
def poisoned_memory():
    # Deterministic algorithms imply torch.utils.deterministic.fill_uninitialized_memory.
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def one_thread():
    """Tests run side by side on few cores; threads of one would wait for those of another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def usual_interrupt():
    """Ctrl-C as a terminal has it, also where whoever runs the tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def all_in_double(monkeypatch):
    """Peers compute parts in float32 whatever their dtype; here these parts stay in float64."""
    to = torch.Tensor.to

    def stay(self, *args, **kwargs):
        single = torch.float32 in args or kwargs.get("dtype") == torch.float32
        return self if single and self.dtype == torch.float64 else to(self, *args, **kwargs)

    softmax = torch.nn.functional.softmax

    def softmax_of(x, dim, dtype=None, **rest):
        return softmax(x, dim, dtype=None if x.dtype == torch.float64 else dtype, **rest)

    monkeypatch.setattr(torch.nn.functional, "softmax", softmax_of)
    monkeypatch.setattr(torch.Tensor, "to", stay)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self.to(torch.float32))
    monkeypatch.setattr(torch.Tensor, "type", lambda self, dtype: self.to(dtype))


@pytest.fixture
def qwen3_next(monkeypatch):
    """The module of transformers. Where fla is installed, they call its GPU kernels, GPU or not; here their own."""
    module = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    for name, value in list(vars(module).items()):
        if isfunction(value) and name.startswith(("torch_", "causal_conv1d_")):
            monkeypatch.setattr(module, name, unwrap(value))
    return module
