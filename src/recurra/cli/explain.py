"""`recurra explain`: what the compiler makes of a recurrence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recurra.cli import own, show
from recurra.cli.layers import without_memory

Option = typer.Option


def explain(
    name: Annotated[str, typer.Argument(help="A layer's name; recurra layers lists them. Or package.module:Class.")],
    width: Annotated[int, Option(help="Channels of the layer.")] = 64,
    batch: Annotated[int, Option(help="Sequences for which engines are compared.")] = 8,
    time: Annotated[int, Option(help="Time steps for which engines are compared.")] = 1024,
    imports: own.Imports = None,
    json: Annotated[bool, Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show a recurrence's traced equations, its gradient, its schedule, its cost, and where its generated source lies.

    Example:

      recurra explain mamba --width 256

      recurra explain my_file:MyCell --import my_file.py
    """
    import torch

    from recurra import registry
    from recurra.engines import choose, compiled
    from recurra.errors import InputError
    from recurra.options import count
    from recurra.recurrence import Recurrence

    own.take(imports, name)
    kind = registry.layer_class(name)
    needed, room = sum(p.nbytes for p in without_memory(kind, width).parameters()), choose.room(torch.device("cpu"))
    if needed > room:
        raise InputError(
            f"width is {width}; the weights of {name} would need {needed / 2**30:.1f} GiB, {room / 2**30:.1f} are free"
        )
    layer = kind(width)
    count("batch", batch)
    count("time", time)
    if batch * time * width >= 2**60:
        raise InputError(f"batch x time x width is {batch} x {time} x {width}; expected below 2**60 numbers")
    x = torch.zeros(1).expand(batch, time, width)
    explained = layer.explain(x)
    facts = dict(explained)
    if isinstance(layer, Recurrence) and compiled.refuses(layer.outline(x)) is None:
        facts = compiled.explain(layer.outline(x)) | facts
    if json:
        show.as_json(facts)
        return
    print(f"{type(layer).__name__}, {layer.lane.value} lanes: {facts['structure']}\n")
    if "equations" in facts:
        _compiled(facts)
    print(f"On [{batch}, {time}, {width}] {explained}\n")
    for direction, path in facts.get("source", {}).items():
        kept = path if Path(path).exists() else f"not kept; {Path(path).parent} cannot be written, or others may"
        print(f"Generated source, {direction}: {kept}")


def _compiled(facts: dict[str, Any]) -> None:
    print("Equations of one time step of one lane, then their gradient:\n")
    print(facts["equations"])
    for direction in ("forward", "reverse"):
        print(f"Schedule, {direction}:\n")
        print("\n".join(f"  {line}" for line in facts["schedule"][direction]) + "\n")
    print(
        f"Per lane and time step: {facts['bytes_read']} bytes read, {facts['bytes_written']} written, about "
        f"{facts['instructions']} instructions forward.\n"
    )
