"""Writes the table of published systems of docs/tasks.md: from the list in systems.csv, nothing by hand.

Each row of the list has a paper, the parts that carry it, the tests that show it, and what is not there yet.
"""

import ast
import csv
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE, LIST = HERE / "tasks.md", HERE / "systems.csv"


def systems() -> list[dict[str, str]]:
    """The rows of the list."""
    with LIST.open(newline="") as file:
        return list(csv.DictReader(file))


def missing() -> list[str]:
    """Tests that the list names and that are nowhere."""
    named = {test for row in systems() for test in row["shown by"].split()}
    return sorted(test for test in named if not _exists(*test.split("::")))


def _exists(file: str, name: str) -> bool:
    path = HERE.parent / file
    found = ast.parse(path.read_text()).body if path.exists() else []
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in found)


def table() -> str:
    """A row for each system."""
    lines = ["| row | paper | carried by | shown by | not yet |", "| --- | --- | --- | --- | --- |"]
    for row in systems():
        tests = [test.split("::") for test in row["shown by"].split()]
        shown = "<br>".join(f"[{name.removeprefix('test_').replace('_', ' ')}](../{file})" for file, name in tests)
        cells = [row["row"], row["paper"], row["carried by"], shown, row["not yet"] if shown else "all of it"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page() -> str:
    """The page with its table as it is now."""
    text = PAGE.read_text()
    return re.sub(r"(<!-- systems -->\n).*?(\n<!-- end -->)", lambda m: m[1] + table() + m[2], text, flags=re.DOTALL)


if __name__ == "__main__":
    if lost := missing():
        raise SystemExit(f"{LIST} names tests that there are not: {', '.join(lost)}")
    PAGE.write_text(page())
