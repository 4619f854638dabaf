"""Writes the table of data sets of docs/data.md: from what Recurra knows of each, nothing by hand."""

import re
from pathlib import Path

from recurra.data import sets

PAGE = Path(__file__).parent / "data.md"


def table() -> str:
    """A row for each data set."""
    lines = ["| name | task | what | held out | from | licence |", "| --- | --- | --- | --- | --- | --- |"]
    for found in sets.SETS.values():
        package = found.package
        source = "Recurra itself" if package is None else f"{package.registry}: {package.name} {package.version}"
        cells = [f"`{found.name}`", found.task, found.about, found.split, source, found.licence]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page() -> str:
    """The page with its tables as they are now."""
    text = PAGE.read_text()
    return re.sub(r"(<!-- sets -->\n).*?(\n<!-- end -->)", lambda m: m[1] + table() + m[2], text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page())
