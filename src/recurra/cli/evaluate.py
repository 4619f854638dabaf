"""`recurra evaluate`: bits per byte of a trained model on a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recurra.cli import own, show

Option = typer.Option


def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")] = Path("runs/default"),
    data: Annotated[
        Path | None, Option(help="Text to predict. Without it: the held-out tenth of the built-in text.")
    ] = None,
    imports: own.Imports = None,
    engine: Annotated[str, Option(help="Engine that runs the steps; auto picks one.")] = "auto",
    json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure how well a model predicts a text it has not seen.

    Example:

      recurra evaluate runs/default --data other.txt
    """
    from recurra.data.text import default_text, read, split
    from recurra.models.files import load
    from recurra.training.evaluate import bits_per_byte

    own.take(imports)
    text = split(default_text())[1] if data is None else read(data)
    model = load(run)
    with show.progress("evaluating", 1) as update:
        bits = bits_per_byte(model, text, engine, progress=lambda done, total: update(done / total))
    if json:
        show.as_json({"bits_per_byte": bits, "bytes": len(text)})
    else:
        print(f"{bits:.4f} bits per byte on {len(text):,} bytes")
