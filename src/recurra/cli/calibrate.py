"""`recurra calibrate`: measure this machine, so that "auto" picks engines by its own speeds."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Annotated

import typer

from recurra.cli import show

Option = typer.Option


def calibrate(json: Annotated[bool, Option("--json", help="Print as JSON.")] = False) -> None:
    """Measure how fast this machine is at what engines are made of. Takes some seconds; kept for later processes.

    Without it, engine "auto" reckons with the speeds of a small server.

    Example:

      recurra calibrate
    """
    from recurra.engines.calibrate import calibrate as measure
    from recurra.engines.rates import Rates

    found = asdict(measure())
    if json:
        show.as_json(found)
        return
    usual = asdict(Rates())
    rows = [[f.name, f"{1e9 * found[f.name]:.3g}", f"{1e9 * usual[f.name]:.3g}"] for f in fields(Rates)]
    show.table("Nanoseconds per unit of work", ["what", "measured", "reckoned with before"], rows)
