"""`recurra generate`: stream text from a trained model."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from recurra.cli import own
from recurra.errors import InputError

Option = typer.Option


def generate(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")] = Path("runs/default"),
    prompt: Annotated[str, Option(help="Text to go on from.")] = "\n",
    count: Annotated[int, Option(help="Tokens to write: bytes, unless the model came with a tokenizer.")] = 400,
    temperature: Annotated[float, Option(help="Above 1 bolder, below 1 more cautious, 0 always the likeliest.")] = 0.7,
    top_k: Annotated[int | None, Option(help="Draw from the k likeliest tokens only.")] = None,
    seed: Annotated[int, Option(help="Of the random choice.")] = 0,
    imports: own.Imports = None,
    load: Annotated[Path | None, Option(help="Go on from a saved session instead of a prompt.")] = None,
    save: Annotated[Path | None, Option(help="Save the session at the end, Ctrl-C included.")] = None,
) -> None:
    """Write text token by token, in constant memory however long it gets.

    Examples:

      recurra generate runs/default --prompt "The for statement" --count 1000

      recurra generate runs/default --save talk.state; recurra generate runs/default --load talk.state
    """
    from recurra.models.files import load as load_model
    from recurra.streaming.session import Session, check_choices
    from recurra.training.interrupt import deferred

    if not prompt and load is None:
        raise InputError("prompt is empty; expected at least one character")
    check_choices(count, temperature, top_k)
    typed = prompt.encode(errors="surrogateescape")  # the bytes as they came, also where they are not UTF-8
    if save is not None and save.exists() and not save.is_file():
        what = "a folder" if save.is_dir() else "a pipe or a device"
        raise InputError(f"save is {str(save)!r}, {what}; expected the file to write")
    own.take(imports)
    model = load_model(run)
    tokenizer = model.tokenizer
    session = Session(model, seed) if load is None else Session.load(model, load)
    if load is None:
        session.feed(typed if tokenizer is None else _tokens(tokenizer, typed))
        print(typed.decode(errors="replace"), end="")
    with deferred() as interrupted:
        stream(_until(interrupted, session.generate(count, temperature, top_k)), tokenizer)
        if save is not None:
            session.save(save)
    if interrupted():
        raise typer.Exit(130)


def _until(interrupted: Callable[[], bool], tokens: Iterator[int]) -> Iterator[int]:
    """Tokens up to a Ctrl-C, between two of them: what has been read has been written."""
    for token in tokens:
        yield token
        if interrupted():
            return


def stream(tokens: Iterator[int], tokenizer: Any = None) -> None:
    """Print tokens as text while they come; without a tokenizer they are bytes."""
    for piece in as_text(tokens, tokenizer):
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()


def _tokens(tokenizer: Any, prompt: bytes) -> list[int]:
    from recurra.models.origin import tokenizing

    try:
        text = prompt.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"prompt is not UTF-8, as the model's tokenizer needs it: {error}") from error
    with tokenizing("turn the prompt into tokens"):
        return tokenizer.encode(text).ids


def as_text(tokens: Iterator[int], tokenizer: Any = None) -> Iterator[str]:
    """Text as soon as it is whole; without a tokenizer the tokens are bytes."""
    return _bytes_as_text(tokens) if tokenizer is None else _pieces(tokens, tokenizer)


def _bytes_as_text(tokens: Iterator[int]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return (decoder.decode(bytes([token])) for token in tokens)


def _pieces(tokens: Iterator[int], tokenizer: Any) -> Iterator[str]:
    from tokenizers.decoders import DecodeStream

    from recurra.models.origin import tokenizing

    decoder = DecodeStream()
    for token in tokens:
        with tokenizing("turn tokens into text"):
            piece = decoder.step(tokenizer, token)
        yield piece or ""
