"""`recurra layers`: every recurrence there is a name for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from recurra.cli import own, show
from recurra.errors import InputError

if TYPE_CHECKING:
    from recurra.contract import Layer
    from recurra.facts import About

Option = typer.Option


def layers(
    family: Annotated[str | None, Option(help="Only those of one family: gated, delta-rule, ...")] = None,
    search: Annotated[str, Option(help="Only those with these words in their name, lane or paper.")] = "",
    width: Annotated[
        int | None, Option(help="Count parameters, and numbers of state per channel, at this width.")
    ] = None,
    imports: own.Imports = None,
    json: Annotated[bool, Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the recurrences: name, family, paper, lane.

    Examples:

      recurra layers --family delta-rule --width 512

      recurra layers --search "gated 2024"

      recurra layers --import my_file.py --family own
    """
    from recurra import options, registry

    if width is not None:
        options.count("width", width)
    own.take(imports)
    found = registry.layers(family=family, search=search)
    rows = [_row(registry.about(name)) | ({} if width is None else _sizes(found[name], width)) for name in found]
    if json:
        show.as_json(rows)
        return
    columns = ["name", "family", "paper", "arXiv", "lane"]
    shown = [[r["name"], r["family"], _cited(r), r["arxiv"] or "", r["lane"]] for r in rows]
    if width is not None:
        columns += ["state/channel", "parameters"]
        for cells, row in zip(shown, rows, strict=True):
            numbers = (f"{row['state_per_channel']:g}", f"{row['parameters']:,}") if "parameters" in row else None
            cells += numbers or ("", "not of this width")
    show.table("Layers" if width is None else f"Layers at width {width}", columns, shown)


def _row(about: About) -> dict[str, Any]:
    """What there is to say about a layer without importing it."""
    return {
        "name": about.name,
        "family": about.family,
        "paper": about.title,
        "authors": about.authors,
        "year": about.year,
        "arxiv": about.arxiv,
        "lane": about.lane,
    }


def _cited(row: dict[str, Any]) -> str:
    return f"{row['paper']} ({row['year']})" if row["year"] else row["paper"]


def _sizes(kind: type[Layer], width: int) -> dict[str, Any]:
    """How large a layer is; of a width that it cannot have with its usual options, why."""
    import torch

    try:
        layer = without_memory(kind, width)
    except InputError as error:
        return {"refuses": str(error)}
    with torch.device("meta"):
        start = layer.initial_state(1)
    state = sum(value.numel() * (2 if value.is_complex() else 1) for value in start.values())
    return {"state_per_channel": state / width, "parameters": sum(p.numel() for p in layer.parameters())}


def without_memory(kind: type[Layer], width: int) -> Layer:
    """A layer whose tensors have shapes and no values.

    Raises InputError if it cannot have this width, or has tensors of more numbers than can be counted.
    """
    import torch

    try:
        with torch.device("meta"):
            return kind(width)
    except RuntimeError as error:
        raise InputError(f"width is {width}; {kind.__name__} would hold more numbers than a tensor can") from error
