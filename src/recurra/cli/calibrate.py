"""`recurra calibrate`: measure this machine, so that "auto" picks engines by its own speeds."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Annotated

import typer

from recurra.cli import show

Option = typer.Option


def calibrate(json: Annotated[bool, Option("--json", help="Print as JSON.")] = False) -> None:
    """Measure how fast this machine is at what engines and products of matrices are made of. Takes some seconds; kept
    for later processes.

    Without it, engine "auto" reckons with the speeds of a small server, and linear maps with what the processor says.

    Example:

      recurra calibrate
    """
    from recurra.engines.calibrate import calibrate as measure
    from recurra.engines.calibrate import products_table
    from recurra.engines.rates import Rates

    found, products = asdict(measure()), products_table()
    if json:
        show.as_json(found | {"products": products})
        return
    usual = asdict(Rates())
    rows = [[f.name, f"{1e9 * found[f.name]:.3g}", f"{1e9 * usual[f.name]:.3g}"] for f in fields(Rates)]
    show.table("Nanoseconds per unit of work", ["what", "measured", "reckoned with before"], rows)
    print()
    sizes, ways = list(products[0])[:3], list(products[0])[3:]
    show.table(
        "Products in float32, billions of operations a second",
        [" x ".join(sizes), *ways],
        [[" x ".join(f"{row[size]:,}" for size in sizes), *(_reached(row[way]) for way in ways)] for row in products],
    )


def _reached(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
