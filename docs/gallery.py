"""Write docs/gallery.md: every registered layer by family, from the classes and from the tests that hold them."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import defaultdict
from pathlib import Path

import torch

import recurra

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
        ["ttt-linear", "ttt-mlp", "titans", "atlas", "moneta", "yaad", "memora"],
    ),
    "Attention": (
        "What is kept grows with time, and every time step looks at all of it. As a step over a growing state it is "
        "streamed, reset and packed like all others, and mixes with them: `gated-delta-net*3+attention` is a common "
        "hybrid, `rg-lru*2+local-attention` the layer pattern of Griffin. `local-attention` keeps a fixed number of "
        "time steps, `rat` one entry for every 16.",
        ["attention", "local-attention", "forgetting-attention", "rat"],
    ),
}

INTRODUCTION = f"""# Gallery

Made by `make gallery` (`python docs/gallery.py`) from the registry; do not edit. `recurra.layer(name, width)` builds
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

Below each table are the equations; a name there leads to the file, which says what the letters are and where the code
departs from the paper. Below those are its weights. Maps are `torch.nn.Linear` and called as such: adapters, hooks and
dynamic quantisation reach them. All others are parameters and norms of the layer's own.
"""


def page() -> str:
    """The text of docs/gallery.md."""
    kinds, checked = recurra.layers(), checks()
    listed = [name for _, names in FAMILIES.values() for name in names]
    if sorted(listed) != sorted(kinds):
        raise SystemExit(f"FAMILIES in docs/gallery.py and the registry differ in {sorted({*listed} ^ {*kinds})}")
    able = {name: engines(kind) for name, kind in kinds.items()}
    recurrences = [able[name] for name, kind in kinds.items() if issubclass(kind, recurra.Recurrence)]
    common = [engine for engine in recurrences[0] if all(engine in found for found in recurrences)]
    parts = [INTRODUCTION.format(count=len(kinds), common=", ".join(f"`{engine}`" for engine in common))]
    for family, (about, names) in FAMILIES.items():
        parts.append(f"## {family}\n\n{textwrap.fill(about, 120, break_on_hyphens=False)}\n")
        parts.append("| layer | paper | year | lane | structure | state | engines | checked against |")
        parts.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for name in names:
            kind = kinds[name]
            others = ", ".join(engine for engine in able[name] if engine not in common)
            cells = [f"[{name}](#{name})", *paper(kind), kind.lane, structure(kind), state(kind), others,
                     ", ".join(checked[name])]  # fmt: skip
            parts.append(f"| {' | '.join(cells)} |")
        for name in names:
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


def engines(kind: type[recurra.Layer]) -> list[str]:
    """Engines that can run it."""
    return [engine for engine, reason in kind(SMALL).refusals(torch.zeros(1, 2, SMALL)).items() if reason is None]


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
