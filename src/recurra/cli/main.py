"""`recurra`: the verbs, and what happens when one fails."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from recurra import __version__
from recurra.cli import (
    calibrate,
    compare,
    convert,
    data,
    evaluate,
    explain,
    fit,
    generate,
    layers,
    predict,
    train,
    update,
)
from recurra.errors import RecurraError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, run and look into recurrent sequence models. Begin with [bold]recurra train[/bold]."""


app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("evaluate")(evaluate.evaluate)
app.command("convert")(convert.convert)
app.command("data")(data.data)
app.command("fit")(fit.fit)
app.command("compare")(compare.compare)
app.command("predict")(predict.predict)
app.command("update")(update.update)
app.command("layers")(layers.layers)
app.command("explain")(explain.explain)
app.command("calibrate")(calibrate.calibrate)


def main() -> None:
    """Run the command line. Bad input is one clear message and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # models write any character, also those that a console does not have
    try:
        app()
    except RecurraError as error:
        print(f"recurra: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"recurra: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
