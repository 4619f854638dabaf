"""`recurra explain`: what the compiler makes of a recurrence."""

from __future__ import annotations

from typing import Annotated

import typer

from recurra.cli import show

Option = typer.Option


def explain(
    name: Annotated[str, typer.Argument(help="A layer's name; recurra layers lists them.")],
    width: Annotated[int, Option(help="Channels of the layer.")] = 64,
    json: Annotated[bool, Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show a recurrence's traced equations, its gradient, its schedule, its cost, and where its generated source lies.

    Example:

      recurra explain mamba --width 256
    """
    import torch

    from recurra import registry
    from recurra.engines import compiled

    layer = registry.layer_class(name)(width)
    x = torch.randn(2, 4, width)
    facts = compiled.explain(layer.problem(x))
    if json:
        show.as_json(facts)
        return
    print(f"{type(layer).__name__}, {layer.lane.value} lanes\n")
    print("Equations of one time step of one lane, then their gradient:\n")
    print(facts["equations"])
    for direction in ("forward", "reverse"):
        print(f"Schedule, {direction}:\n")
        print("\n".join(f"  {line}" for line in facts["schedule"][direction]) + "\n")
    print(
        f"Per lane and time step: {facts['bytes_read']} bytes read, {facts['bytes_written']} written, about "
        f"{facts['instructions']} instructions forward."
    )
    for direction, path in facts["source"].items():
        print(f"Generated source, {direction}: {path}")
