"""`recurra layers`: every recurrence there is a name for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from recurra.cli import show
from recurra.errors import InputError

if TYPE_CHECKING:
    from recurra.contract import Layer

Option = typer.Option


def layers(
    width: Annotated[int, Option(help="Channels for which parameters and state are counted.")] = 256,
    json: Annotated[bool, Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the recurrences: name, paper, lane, numbers of state per channel, parameters.

    Example:

      recurra layers --width 512
    """
    from recurra import options, registry

    options.count("width", width)
    rows = [_row(name, kind, width) for name, kind in registry.layers().items()]
    if json:
        show.as_json(rows)
        return
    shown = [
        [r["name"], f"{r['paper']} ({r['year']})", r["arxiv"] or "", r["lane"],
         *([f"{r['state_per_channel']:g}", f"{r['parameters']:,}"] if "parameters" in r else ["", "not of this width"])]
        for r in rows
    ]  # fmt: skip
    show.table(f"Layers at width {width}", ["name", "paper", "arXiv", "lane", "state/channel", "parameters"], shown)


def _row(name: str, kind: type[Layer], width: int) -> dict[str, Any]:
    """What there is to say about a layer; of a width that it cannot have with its usual options, why."""
    import torch

    row: dict[str, Any] = {
        "name": name,
        "paper": kind.paper.title if kind.paper else "",
        "year": kind.paper.year if kind.paper else None,
        "arxiv": kind.paper.arxiv if kind.paper else None,
        "lane": str(kind.lane.value),
    }
    try:
        layer = without_memory(kind, width)
    except InputError as error:
        return row | {"refuses": str(error)}
    with torch.device("meta"):
        start = layer.initial_state(1)
    state = sum(value.numel() * (2 if value.is_complex() else 1) for value in start.values())
    return row | {
        "state_per_channel": state / width,
        "parameters": sum(p.numel() for p in layer.parameters()),
    }


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
