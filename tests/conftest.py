"""Uninitialised memory is filled with NaN in every test, so that a forgotten element cannot pass by luck."""

import pytest
import torch


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
