"""`recurra train`: from a text to a run folder."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recurra.cli import own, show

Option = typer.Option


def train(
    data: Annotated[
        Path | None, Option(help="A file or folder of text. Without it: the Python language reference, 0.5 MB.")
    ] = None,
    out: Annotated[Path, Option(help="The run folder to fill.")] = Path("runs/default"),
    pattern: Annotated[str | None, Option(help="Recurrences from bottom to top, such as mamba*3+lstm.")] = None,
    width: Annotated[int | None, Option(help="Channels between blocks.")] = None,
    mlp: Annotated[int | None, Option(help="Hidden width of the gated MLPs; 0 leaves them out.")] = None,
    dropout: Annotated[float | None, Option(help="Dropout while training.")] = None,
    batch: Annotated[int | None, Option(help="Streams of text side by side.")] = None,
    window: Annotated[int | None, Option(help="Bytes between two updates.")] = None,
    steps: Annotated[int | None, Option(help="Updates in all.")] = None,
    learning_rate: Annotated[float | None, Option(help="Highest learning rate.")] = None,
    seed: Annotated[int | None, Option(help="Of initialisation and dropout.")] = None,
    engine: Annotated[str | None, Option(help="Engine that runs the steps; auto picks one.")] = None,
    precision: Annotated[str | None, Option(help="Of products: fp32, or bf16 with sums in float32.")] = None,
    checkpoint_every: Annotated[int | None, Option(help="Steps between checkpoints.")] = None,
    imports: own.Imports = None,
    resume: Annotated[bool, Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
    sample: Annotated[int, Option(help="Bytes of sample text to stream at the end.")] = 400,
    json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a byte-level language model and compare it with gzip, xz and a trigram model.

    Examples:

      recurra train

      recurra train --data my.txt --out runs/mine --pattern "mamba*2+lstm" --width 192

      recurra train --out runs/mine --resume

      recurra train --import my_file.py --pattern "my_file:MyCell*2"
    """
    from recurra import options
    from recurra.data.baselines import baselines
    from recurra.data.text import default_text, read, split
    from recurra.memory import keep_freed_memory
    from recurra.training import trainer

    keep_freed_memory()
    own.take(imports, pattern)
    options.whole("sample", sample)

    given = {
        "pattern": pattern, "width": width, "mlp": mlp, "dropout": dropout, "batch": batch, "window": window,
        "steps": steps, "learning_rate": learning_rate, "seed": seed, "engine": engine,
        "precision": precision, "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    try:
        config, source = _asked({name: value for name, value in given.items() if value is not None}, data, out, resume)
        text = default_text() if source is None else read(source)
        with show.progress("training", config.steps) as update:

            def progress(metrics: dict[str, float]) -> None:
                note = f"{metrics['bits_per_byte']:.3f} bits/byte  {metrics['tokens_per_second']:,.0f} bytes/s"
                update(metrics["step"], note)

            result = trainer.train(config, text, out, resume, progress, source)
        result |= {"others": baselines(*split(text))}
    except KeyboardInterrupt:
        print(f"recurra: interrupted; {_how_to_go_on(out, imports)}", file=sys.stderr)
        raise typer.Exit(130) from None
    if json:
        show.as_json(result)
        return
    _report(result, out)
    if sample:
        _sample(out, split(text)[1], sample)


def _asked(given: dict[str, Any], data: Path | None, out: Path, resume: bool) -> tuple[Any, str | None]:
    """The config as asked for and the path of the text; on resume, what is not given is taken from the run."""
    from recurra.training.config import TrainConfig
    from recurra.training.run_folder import begun

    source = None if data is None else os.path.abspath(data)
    if resume and (out / "config.json").exists():
        config, begun_on = begun(out)
        given, source = config.as_dict() | given, source or begun_on
    return TrainConfig(**given), source


def _how_to_go_on(out: Path, imports: list[str] | None) -> str:
    if not (out / "config.json").exists():
        return "nothing was written yet"
    again = [word for what in imports or () for word in ("--import", what)]
    return f"go on with: {shlex.join(['recurra', 'train', '--out', str(out), '--resume', *again])}"


def _report(result: dict[str, Any], out: Path) -> None:
    rows = [["this model", f"{result['bits_per_byte']:.3f}"]]
    rows += [[name, f"{bits:.3f}"] for name, bits in result["others"].items()]
    show.table("Bits per byte on the held-out tenth", ["", "bits per byte"], rows)
    print(
        f"{result['layer']}: {result['parameters']:,} parameters, {result['tokens']:,} bytes in "
        f"{result['training_seconds']:.0f} s of training. Everything is in {out}/"
    )


def _sample(out: Path, prompt: bytes, count: int) -> None:
    from recurra.cli.generate import stream
    from recurra.models.files import load

    print("\nA sample:")
    session = load(out).stream()
    session.feed(prompt[:200])
    stream(session.generate(count, temperature=0.7))
