"""`recurra convert`: a folder of transformers to one of ours, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recurra.cli import own
from recurra.errors import InputError
from recurra.options import choice

Option = typer.Option


def convert(
    source: Annotated[Path, typer.Argument(help="The folder of a model, ours or of transformers.")],
    destination: Annotated[Path, typer.Argument(help="The folder to write; new, or empty.")],
    imports: own.Imports = None,
    to: Annotated[str, Option(help="Whose folder to write: recurra or transformers.")] = "recurra",
) -> None:
    """Rewrite a model that transformers saved as one of ours, or back; its tokenizer goes along.

    Examples:

      recurra convert mamba-130m-hf runs/mamba

      recurra convert runs/mamba mamba-tuned --to transformers
    """
    from recurra.interop.convert import to_transformers
    from recurra.models.files import load, save

    choice("to", to, ("recurra", "transformers"))
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"destination {str(destination)!r} is not empty; choose a new folder")
    own.take(imports)
    model = load(source)
    if to == "recurra":
        save(model, destination)
    else:
        to_transformers(model, destination)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters written to {destination}")
