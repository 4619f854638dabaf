"""Every Python example in the documents runs."""

import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(document):
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


@pytest.mark.parametrize("document", ["README.md", "docs/adding-a-recurrence.md"])
def test_examples_run(document):
    name = "example_" + re.sub(r"\W", "_", document)
    module = sys.modules[name] = types.ModuleType(name)
    for block in blocks(document):
        exec(compile(block, document, "exec"), vars(module))


def test_the_own_recurrence_of_the_readme_is_short():
    assert len([line for line in blocks("README.md")[0].splitlines() if line.strip()]) < 20
