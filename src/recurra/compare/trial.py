"""One model of a comparison, trained and scored in a process of its own, so that its memory is its own too."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from recurra.cli import own
from recurra.compare.sources import Scoring, Source, find
from recurra.data.sequences import Sequences
from recurra.errors import RecurraError


@dataclass(frozen=True)
class Measure:
    """What of a report is to be small."""

    name: str
    of: Callable[[dict[str, Any]], float]
    interval: Callable[[dict[str, Any]], float | None]
    """How far it may be off in 95 of 100 cases; None if the report does not say."""


MEASURES = {
    "forecast": Measure("MASE", lambda report: report["mase"], lambda report: report["mase_interval"]),
    "classify": Measure("error", lambda report: 1 - report["accuracy"], lambda report: _half(report["interval"])),
    "tag": Measure("error", lambda report: 1 - report["accuracy"], lambda report: None),
    "translate": Measure("wrong", lambda report: report["wrong"], lambda report: None),
    "recommend": Measure("1 - NDCG", lambda report: 1 - report["ndcg"], lambda report: None),
    "regress": Measure("MAE", lambda report: report["mae"], lambda report: None),
    "detect": Measure("1 - F1", lambda report: 1 - report["f1"], lambda report: None),
}
"""By task."""
ROWS = 64
"""New rows whose time is taken."""


def _half(bounds: Sequence[float]) -> float:
    return (bounds[1] - bounds[0]) / 2


@dataclass(frozen=True)
class Trial:
    """What decides a result, but for the machine."""

    task: str
    data: str
    pattern: str
    seconds: float
    seed: int
    settings: str
    """Of the estimator, as JSON."""
    scoring: Scoring
    threads: int
    imports: tuple[str, ...] = ()
    """Files and modules with layers of one's own."""

    @classmethod
    def of(
        cls,
        task: str,
        data: str,
        seconds: float,
        settings: dict[str, Any],
        scoring: Scoring,
        imports: list[str] | None = None,
    ) -> Trial:
        """One of no model yet, on as many threads as there are here."""
        about = json.dumps(settings, sort_keys=True)
        return cls(task, data, "", seconds, 0, about, scoring, torch.get_num_threads(), tuple(imports or ()))

    @property
    def key(self) -> str:
        """A name for all of this, the content of its files included."""
        files = [Path(name) for name in (self.data, self.scoring.test, *self.imports) if name]
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()]
        return hashlib.sha256(json.dumps([asdict(self), contents], sort_keys=True).encode()).hexdigest()[:16]

    def source(self) -> Source:
        """The estimator and its data. Raises InputError."""
        settings = json.loads(self.settings) | {"pattern": self.pattern, "seconds": self.seconds, "seed": self.seed}
        return find(self.task, self.data, settings, self.scoring)


def run(trial: Trial) -> dict[str, Any]:
    """Train and score in a fresh process; gives the result as plain data.

    Raises RecurraError if the process ends without one, as it does where memory runs out.
    """
    # What is forked takes locks and threads along that others hold.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        try:
            return pool.submit(measure, trial).result()
        except BrokenProcessPool as error:
            raise RecurraError(f"training {trial.pattern!r} was killed; it may have run out of memory") from error


def measure(trial: Trial) -> dict[str, Any]:
    """Train and score here."""
    torch.set_num_threads(trial.threads)
    own.take(list(trial.imports), trial.pattern)
    source = trial.source()
    began = time.perf_counter()
    source.estimator.fit(source.learn)
    seconds = time.perf_counter() - began
    report, measured = source.score(), MEASURES[trial.task]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "pattern": trial.pattern,
        "seed": trial.seed,
        "error": measured.of(report),
        "interval": measured.interval(report),
        "seconds": seconds,
        "parameters": sum(p.numel() for p in source.estimator.model_.parameters()),
        "megabytes": peak / (2**20 if sys.platform == "darwin" else 2**10),
        "microseconds": _per_row(source),
        "floors": {name: measured.of(floor) for name, floor in report.get("floors", {}).items()},
    }


@torch.no_grad()
def _per_row(source: Source) -> float | None:
    """The median time that a model takes for one new row, in microseconds; None of one that reads whole sequences."""
    model, learn = source.estimator.model_, source.learn
    if not isinstance(learn, Sequences) or not hasattr(model, "read") or model.backbone.bidirectional:
        return None
    rows = [torch.tensor([[row]]) for row in range(min(ROWS, learn.steps))]
    given = [{name: learn.take(name, row) for name in model.inlet.reads} for row in rows]
    state, times = model.initial_state(1), []
    for columns in given:
        began = time.perf_counter()
        read, state = model.read(columns, state)
        model.outlook(read.y)
        times.append(time.perf_counter() - began)
    return 1e6 * sorted(times)[len(times) // 2]
