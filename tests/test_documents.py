"""Every Python example in the documents runs."""

import re
import runpy
import sys
import types
from pathlib import Path

import pytest

import recurra

ROOT = Path(__file__).parent.parent


def blocks(document):
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


@pytest.mark.parametrize("document", ["README.md", "docs/adding-a-recurrence.md"])
def test_examples_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "example_" + re.sub(r"\W", "_", document)
    module = sys.modules[name] = types.ModuleType(name)
    for block in blocks(document):
        exec(compile(block, document, "exec"), vars(module))


def test_the_own_recurrence_of_the_readme_is_short():
    assert len([line for line in blocks("README.md")[0].splitlines() if line.strip()]) < 20


def test_the_gallery_is_up_to_date():
    page = runpy.run_path(str(ROOT / "docs/gallery.py"))["page"]()
    assert (ROOT / "docs/gallery.md").read_text() == page, "run `make gallery`"


def test_the_readme_names_every_layer():
    text = (ROOT / "README.md").read_text()
    assert [name for name in recurra.layers() if f"`{name}`" not in text] == []
