"""`recurra generate`: stream text from a trained model."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from recurra.errors import InputError

Option = typer.Option


def generate(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")] = Path("runs/default"),
    prompt: Annotated[str, Option(help="Text to go on from.")] = "\n",
    count: Annotated[int, Option(help="Bytes to write.")] = 400,
    temperature: Annotated[float, Option(help="Above 1 bolder, below 1 more cautious, 0 always the likeliest.")] = 0.7,
    top_k: Annotated[int | None, Option(help="Draw from the k likeliest bytes only.")] = None,
    seed: Annotated[int, Option(help="Of the random choice.")] = 0,
    load: Annotated[Path | None, Option(help="Go on from a saved session instead of a prompt.")] = None,
    save: Annotated[Path | None, Option(help="Save the session at the end.")] = None,
) -> None:
    """Write text byte by byte, in constant memory however long it gets.

    Examples:

      recurra generate runs/default --prompt "The for statement" --count 1000

      recurra generate runs/default --save talk.state; recurra generate runs/default --load talk.state
    """
    from recurra.models.files import load as load_model
    from recurra.streaming.session import Session

    if not prompt and load is None:
        raise InputError("prompt is empty; expected at least one character")
    model = load_model(run)
    session = Session(model, seed) if load is None else Session.load(model, load)
    if load is None:
        session.feed(prompt.encode())
        print(prompt, end="")
    stream(session.generate(count, temperature, top_k))
    if save is not None:
        session.save(save)


def stream(tokens: Iterator[int]) -> None:
    """Print bytes as text while they come."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        sys.stdout.write(decoder.decode(bytes([token])))
        sys.stdout.flush()
    print()
