"""Write docs/gallery.md: every registered recurrence by family, from the classes and from the tests that hold them."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import defaultdict
from pathlib import Path

import torch

import recurra
from recurra.engines.choose import reasons_to_refuse

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/gallery.md"
WIDTH = 256
"""Channels for which state is counted."""
SMALL = 8
"""Channels of the layer whose step is traced; the structure is the same at any width."""

FAMILIES = {
    "Gated RNNs": (
        "Gates decide what is kept and what is written. Where they see the state the step is not affine in it; the "
        "diagonal ones are nonlinear in each channel by itself, and the minimal ones let gates see the input only.",
        ["rnn", "lstm", "gru", "slstm", "diagonal-gru", "diagonal-lstm", "min-gru", "min-lstm"],
    ),
    "Diagonal linear and state-space layers": (
        "Each channel of the state decays, and perhaps turns, on its own; `lmu` mixes a short vector in each. Where "
        "the coefficients are constant in time, all time steps together are a convolution.",
        ["s4d", "dss", "s5", "lmu", "lru", "hgrn", "rg-lru", "griffin", "mamba", "falcon-mamba", "rwkv4-channel-mix"],
    ),
    "Linear attention and relatives": (
        "Each head has a matrix to which products of keys and values are added, and which queries read; what is old "
        "may decay. `mlstm`, `xlstm-7b` and `rwkv4`, which has a number for a matrix, are affine but for the maximum "
        "that keeps their numbers small. `aaren` is softmax attention with a fixed query.",
        ["linear-attention", "based", "retnet", "gla", "hgrn2", "mamba2", "mlstm", "xlstm-7b", "rwkv4", "aaren"],
    ),
    "Delta rule": (
        "Each head has a matrix that is corrected at a key: what it held there is taken out before the new value is "
        "written.",
        ["delta-net", "gated-delta-net", "delta-product", "rwkv7"],
    ),
    "Test-time memories": (
        "The state of a head is a small model, and every time step trains it by one step of gradient descent.",
        ["ttt-linear", "ttt-mlp", "titans", "moneta", "yaad", "memora"],
    ),
}

INTRODUCTION = f"""# Gallery

Made by `make gallery` (`python docs/gallery.py`) from the registry; do not edit. `recurra.layer(name, width)` builds
any of these {{count}} recurrences, all with default options here.

- **Lane**: the smallest part of the state that evolves without looking at the others.
- **Structure**: `layer.structure`, found from the graph of the step. It says how the next state of a lane depends on
  its state: affine or not, how the Jacobian is filled, and, for affine steps, whether the coefficients change in time.
  A complex number counts as one. "Associative" says that the layer has a method `combine`.
- **State**: bytes per sequence in float32 at width {WIDTH}, with what short convolutions remember.
- **Engines**: {{common}} run all of them; the column has the others. See [engines.md](engines.md).
- **Checked against**: "equations" are those of the paper, written out a second time in `tests/recurrences`; anything
  else is an implementation by other people that is given the same weights, where it is installed.

Below each table are the equations; a name there leads to the file, which says what the letters are and where the code
departs from the paper.
"""


def page() -> str:
    """The text of docs/gallery.md."""
    kinds, checked = recurra.layers(), checks()
    listed = [name for _, names in FAMILIES.values() for name in names]
    if sorted(listed) != sorted(kinds):
        raise SystemExit(f"FAMILIES in docs/gallery.py and the registry differ in {sorted({*listed} ^ {*kinds})}")
    able = {name: engines(kind) for name, kind in kinds.items()}
    common = [engine for engine in next(iter(able.values())) if all(engine in found for found in able.values())]
    parts = [INTRODUCTION.format(count=len(kinds), common=", ".join(f"`{engine}`" for engine in common))]
    for family, (about, names) in FAMILIES.items():
        parts.append(f"## {family}\n\n{textwrap.fill(about, 120)}\n")
        parts.append("| layer | paper | year | lane | structure | state | engines | checked against |")
        parts.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for name in names:
            kind = kinds[name]
            others = ", ".join(engine for engine in able[name] if engine not in common)
            cells = [f"[{name}](#{name})", *paper(kind), kind.lane, structure(kind), f"{state(kind):,}", others,
                     ", ".join(checked[name])]  # fmt: skip
            parts.append(f"| {' | '.join(cells)} |")
        for name in names:
            file = Path(inspect.getfile(kinds[name])).name
            parts.append(f"\n### [{name}](../src/recurra/recurrences/{file})\n")
            parts.append(f"```\n{equations(kinds[name])}\n```")
        parts.append("")
    return "\n".join(parts)


def paper(kind: type[recurra.Recurrence]) -> tuple[str, str]:
    """Title, as a link if there is one, with authors; and year."""
    source = kind.paper
    assert source is not None
    title = f"[{source.title}](https://arxiv.org/abs/{source.arxiv})" if source.arxiv else source.title
    return f"{title}, {source.authors}", str(source.year)


def equations(kind: type[recurra.Recurrence]) -> str:
    """The docstring up to its first empty line; one that names no time step goes on from its base class."""
    own = (inspect.getdoc(kind) or "").split("\n\n")[0]
    return own if "_t" in own else f"{equations(kind.__mro__[1])}\n{own}"


def structure(kind: type[recurra.Recurrence]) -> str:
    """`layer.structure`, in short."""
    found = kind(SMALL).structure
    if found.affine:
        return f"affine, {found.kind}, {'constant' if found.constant else 'changing'} in time"
    return f"nonlinear, {found.kind}" + (", associative" if hasattr(kind, "combine") else "")


def state(kind: type[recurra.Recurrence]) -> int:
    """Bytes of state per sequence."""
    return sum(t.numel() * t.element_size() for t in kind(WIDTH).initial_state(1).values())


def engines(kind: type[recurra.Recurrence]) -> list[str]:
    """Engines that can run it."""
    reasons = reasons_to_refuse(kind(SMALL).problem(torch.zeros(1, 2, SMALL)))
    return [engine for engine, reason in reasons.items() if reason is None]


def checks() -> dict[str, list[str]]:
    """What tests/recurrences holds each layer to.

    Read off the tables EQUATIONS and PEERS there, and off the names of tests: `test_<layer>_is_that_of_<package>`.
    """
    found: dict[str, list[str]] = defaultdict(list)

    def add(name: str, what: str) -> None:
        if what not in found[name]:
            found[name].append(what)

    for file in sorted((ROOT / "tests/recurrences").glob("test_*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                if match := re.fullmatch(r"test_(\w+?)(?:_core|_layer)?_is_that_of_(\w+)", node.name):
                    add(match[1].replace("_", "-"), f"`{match[2]}`")
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PEERS":
                for entry in node.value.values:
                    add(entry.elts[0].value, f"`{ast.unparse(entry.elts[2])}`")
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EQUATIONS":
                rows = node.value.keys if isinstance(node.value, ast.Dict) else [row.elts[0] for row in node.value.elts]
                for row in rows:
                    add(row.value.split(",")[0], "equations")
    return found


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
