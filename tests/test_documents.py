"""Every Python example in the documents runs."""

import json
import re
import runpy
import sys
import types
from pathlib import Path

import pytest

import recurra
from benchmarks import shelf
from recurra import registry
from recurra.catalogue import FAMILIES
from recurra.engines import rates

ROOT = Path(__file__).parent.parent


def blocks(document):
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


DOCUMENTS = ["README.md", "docs/adding-a-recurrence.md", "docs/data.md", "docs/tasks.md"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_examples_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "OWN", {})
    name = "example_" + re.sub(r"\W", "_", document)
    module = sys.modules[name] = types.ModuleType(name)
    for block in blocks(document):
        exec(compile(block, document, "exec"), vars(module))


def test_the_guide_ends_with_examples_as_they_are():
    guide = "\n".join(blocks("docs/adding-a-recurrence.md"))
    shown = [path.stem for path in sorted((ROOT / "examples").glob("*.py")) if path.read_text() in guide]
    assert shown == ["kalman", "mogrifier_lstm", "spiking"]
    named = (ROOT / "docs/adding-a-recurrence.md").read_text()
    assert all(f"`examples/{name}.py`" in named for name in shown)


def test_the_readme_shows_what_is_printed(capsys, monkeypatch):
    text = (ROOT / "README.md").read_text()
    pattern = r"```python\n(layer = recurra\.layer\(\"s4d.*?)```.*?```\n(.*?)```"
    example, shown = re.search(pattern, text, re.DOTALL).groups()
    monkeypatch.setattr("recurra.engines.rates._file", lambda: Path("none"))
    rates.current.cache_clear()
    exec("import recurra, torch\n" + example, {})
    rates.current.cache_clear()
    printed = capsys.readouterr().out
    # How many milliseconds depends on the processor's vectors.
    without = [re.sub(r"[\d.]+ ms", "ms", text) for text in (printed, shown)]
    assert without[0] == without[1]


def test_the_own_recurrence_of_the_readme_is_short():
    assert len([line for line in blocks("README.md")[0].splitlines() if line.strip()]) < 20


def test_the_gallery_is_up_to_date():
    script = runpy.run_path(str(ROOT / "docs/gallery.py"))
    assert (ROOT / "docs/gallery.md").read_text() == script["page"](), "run `make gallery`"
    readme = (ROOT / "README.md").read_text()
    assert readme == script["readme"](), "run `make gallery`"
    assert [name for name in recurra.layers() if f"`{name}`" not in readme] == []
    pictures = re.findall(r"\(images/(\S+)\)", (ROOT / "docs/gallery.md").read_text())
    assert len(pictures) == len(FAMILIES)
    assert [picture for picture in pictures if not (ROOT / "docs/images" / picture).exists()] == []


def test_the_table_of_data_sets_is_up_to_date():
    assert (ROOT / "docs/data.md").read_text() == runpy.run_path(str(ROOT / "docs/data.py"))["page"](), (
        "run docs/data.py"
    )


def test_the_table_of_systems_is_up_to_date_and_its_tests_are_there():
    script = runpy.run_path(str(ROOT / "docs/systems.py"))
    assert script["missing"]() == []
    assert (ROOT / "docs/tasks.md").read_text() == script["page"](), "run docs/systems.py"


def test_the_shelf_is_as_it_was_measured():
    results = json.loads((ROOT / "benchmarks/shelf.json").read_text())
    assert (ROOT / "docs/shelf.md").read_text() == shelf.page(results), "run `python -m benchmarks.shelf LAYER`"
    assert {row["layer"] for row in results["rows"]} <= set(recurra.layers())
