"""A model of ours beside the same inside transformers."""

import pytest

from recurra.models import files


@pytest.fixture
def pair(tmp_path):
    """A model of ours, and the same as transformers load it."""
    transformers = pytest.importorskip("transformers")
    from tiny_models import tiny

    model = tiny()
    files.save(model, tmp_path / "folder")
    return model, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
