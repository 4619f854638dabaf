"""Write docs/gallery.md, and the list of layers in the README: every layer by family, from the catalogue, the classes,
and the tests that hold them."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import defaultdict
from pathlib import Path

import torch

import recurra
from recurra.catalogue import FAMILIES
from recurra.facts import SMALL

ROOT = Path(__file__).parent.parent
PAGE, README = ROOT / "docs/gallery.md", ROOT / "README.md"
LIST = "| family | names |\n| --- | --- |\n"
"""What the list of layers in the README follows."""
WIDTH = 256
"""Channels for which state is counted."""
INTRODUCTION = f"""# Gallery

Made by `make gallery` (`python docs/gallery.py`) from `catalogue.py`; do not edit. `recurra.layer(name, width)` builds
any of these {{count}} layers, all with default options here.

- **Lane**: the smallest part of the state that evolves without looking at the others.
- **Structure**: `layer.structure`, found from the graph of the step. It says how the next state of a lane depends on
  its state: affine or not, how the Jacobian is filled, and, for affine steps, whether the coefficients change in time.
  A complex number counts as one. "Associative" says that the layer has a method `combine`.
- **State**: bytes per sequence in float32 at width {WIDTH}, with what short convolutions remember.
  What grows is given in bytes per time step, and with its bound if it has one.
- **Engines**: {{common}} run all recurrences; the column has the others. Attention runs on
  `parallel` and `loop`. See [engines.md](engines.md).
- **Checked against**: "equations" are those of the paper, written out a second time in `tests`; anything else is an
  implementation by other people that is given the same weights, where it is installed.

Above each table is a picture of its family (`docs/families.py`): left, the numbers of state per channel at several
widths, of what grows after 1024 time steps; right, how far one impulse at the first time step of noise still moves
what comes out later, of a layer of 32 channels that has not been trained.

Below each table are the equations; a name there leads to the file, which says what the letters are and where the code
departs from the paper. Below those are its weights. Maps are `torch.nn.Linear` and called as such: adapters, hooks and
dynamic quantisation reach them. All others are parameters and norms of the layer's own.
"""


def page() -> str:
    """The text of docs/gallery.md."""
    kinds, checked = recurra.layers(), checks()
    able = {name: recurra.about(name).engines for name in kinds}
    recurrences = [able[name] for name, kind in kinds.items() if issubclass(kind, recurra.Recurrence)]
    common = [engine for engine in recurrences[0] if all(engine in found for found in recurrences)]
    parts = [INTRODUCTION.format(count=len(kinds), common=", ".join(f"`{engine}`" for engine in common))]
    for key, family in FAMILIES.items():
        parts.append(f"## {family.title}\n\n{textwrap.fill(family.about, 120, break_on_hyphens=False)}\n")
        parts.append(f"![{family.title}: state and memory of each](images/family-{key}.svg)\n")
        parts.append("| layer | paper | year | lane | structure | state | engines | checked against |")
        parts.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for name in family.layers:
            kind = kinds[name]
            others = ", ".join(engine for engine in able[name] if engine not in common)
            cells = [f"[{name}](#{name})", *paper(kind), kind.lane, structure(kind), state(kind), others,
                     ", ".join(checked[name])]  # fmt: skip
            parts.append(f"| {' | '.join(cells)} |")
        for name in family.layers:
            file = Path(inspect.getfile(kinds[name])).relative_to(ROOT)
            parts.append(f"\n### [{name}](../{file})\n")
            parts.append(f"```\n{equations(kinds[name])}\n```\n\n{weights(kinds[name])}")
        parts.append("")
    return "\n".join(parts)


def paper(kind: type[recurra.Layer]) -> tuple[str, str]:
    """Title, as a link if there is one, with authors; and year."""
    source = kind.paper
    assert source is not None
    title = f"[{source.title}](https://arxiv.org/abs/{source.arxiv})" if source.arxiv else source.title
    return f"{title}, {source.authors}", str(source.year)


def equations(kind: type[recurra.Layer]) -> str:
    """The docstring up to its first empty line; one that names no time step goes on from its base class."""
    own = (inspect.getdoc(kind) or "").split("\n\n")[0]
    return own if "_t" in own else f"{equations(kind.__mro__[1])}\n{own}"


def weights(kind: type[recurra.Layer]) -> str:
    """Which weights are linear maps of their own, and which are not."""
    layer = kind(SMALL)
    maps = [name for name, part in layer.named_modules() if isinstance(part, torch.nn.Linear)]
    others = [name for name, _ in layer.named_parameters() if name.rpartition(".")[0] not in maps]
    named = {"Maps": maps, "Others": others}
    said = "; ".join(f"{what}: {', '.join(f'`{name}`' for name in names)}" for what, names in named.items() if names)
    return textwrap.fill(f"{said}.", 120, break_on_hyphens=False, break_long_words=False)


def structure(kind: type[recurra.Layer]) -> str:
    """`layer.structure`, in short."""
    if not issubclass(kind, recurra.Recurrence):
        return "grows in time" if kind(SMALL).endless else "grows up to a bound"
    found = kind(SMALL).structure
    if found.affine:
        return f"affine, {found.kind}, {'constant' if found.constant else 'changing'} in time"
    return f"nonlinear, {found.kind}" + (", associative" if hasattr(kind, "combine") else "")


def state(kind: type[recurra.Layer]) -> str:
    """Bytes of state per sequence; of attention what a time step adds on average, and the most there can be."""
    layer = kind(WIDTH)
    if not layer.growing:
        return f"{layer.initial_state(1).nbytes:,}"
    with torch.no_grad():
        begun, later, late = (layer(torch.zeros(1, steps, WIDTH))[1].nbytes for steps in (64, 128, 4096))
    each = f"{(later - begun) // 64:,} a step"
    return each if layer.endless else f"{each}, at most {late:,}"


def checks() -> dict[str, list[str]]:
    """What tests/recurrences and tests/attention hold each layer to.

    Read off the tables EQUATIONS and PEERS there, and off the names of tests: `test_<layer>_is_that_of_<package>`.
    """
    found: dict[str, list[str]] = defaultdict(list)

    def add(name: str, what: str) -> None:
        if what not in found[name]:
            found[name].append(what)

    for file in sorted(
        [*(ROOT / "tests/recurrences").glob("test_*.py"), *(ROOT / "tests/attention").glob("test_*.py")]
    ):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                if match := re.fullmatch(r"test_(\w+?)(?:_core|_layer)?_is_that_of_(\w+)", node.name):
                    add(match[1].replace("_", "-"), f"`{match[2]}`")
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PEERS":
                for entry in node.value.values:
                    add(entry.elts[0].value, f"`{ast.unparse(entry.elts[2]).strip(chr(39))}`")
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EQUATIONS":
                rows = node.value.keys if isinstance(node.value, ast.Dict) else [row.elts[0] for row in node.value.elts]
                for row in rows:
                    add(row.value.split(",")[0], "equations")
    return found


def readme() -> str:
    """The text of README.md with the list of layers that it ought to have."""
    rows = [f"| {family.title} | {', '.join(f'`{name}`' for name in family.layers)} |" for family in FAMILIES.values()]
    before, _, rest = README.read_text().partition(LIST)
    return before + LIST + "\n".join(rows) + "\n\n" + rest.partition("\n\n")[2]


def main() -> None:
    """Write the page, and the list in the README."""
    PAGE.write_text(page())
    README.write_text(readme())
    print(PAGE.relative_to(ROOT), README.relative_to(ROOT))


if __name__ == "__main__":
    main()
