"""`python -m benchmarks.labels [--only ROW] [--json]`: classes, tags, translations and recommendations of data sets
with known figures, on their tests; writes labels.json beside this file, and the table of docs/tasks.md.

Options were chosen on validation parts, which `--validate` predicts instead: nothing is then written. Other libraries
are run on the same data where `make labels` has given each an environment of its own, `.venv-NAME`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from recurra.data.sequences import Sequences
from recurra.data.sets import get, load
from recurra.data.words import Pairs
from recurra.memory import keep_freed_memory
from recurra.tasks.classifier import Classifier
from recurra.tasks.estimator import Estimator
from recurra.tasks.heads.ctc import CTC
from recurra.tasks.recommender import Recommender
from recurra.tasks.tagger import Tagger
from recurra.tasks.translator import Translator, targets_of

ROOT = Path(__file__).parents[1]
FILE, PAGE = Path(__file__).with_name("labels.json"), ROOT / "docs" / "tasks.md"
ESTIMATORS: dict[str, type[Estimator]] = {
    "classify": Classifier, "tag": Tagger, "translate": Translator, "recommend": Recommender,
}  # fmt: skip
FOUND = {"classify": "accuracy", "tag": "accuracy", "translate": "wrong", "recommend": "hit_rate"}
"""What of an evaluation is the score; of translations less is better."""
PEERS = {"aeon": "aeon's MiniRocket", "crfsuite": "sklearn-crfsuite", "recbole": "recbole's GRU4Rec, five epochs"}
"""By their environments."""


@dataclass(frozen=True)
class Case:
    """Data sets with one score, their mean, and what it has to be better than."""

    sets: tuple[str, ...]
    what: str
    """What the score is."""
    bars: str
    """Floors and what others have published."""
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: int = 1
    peer: str = ""
    """The environment of another library."""
    asked: dict[str, Any] = field(default_factory=dict)
    """What the peer is told besides the data."""


SHAPES = {"pattern": "min-gru", "shapes": 1000, "width": 16, "mlp": 0, "steps": 400}
CRF = {"algorithm": "lbfgs", "c1": 0.1, "c2": 0.1, "max_iterations": 50}
CASES = {
    "vowels": Case(
        ("JapaneseVowels",), "right cases", "asked: 0.97", seeds=5,
    ),
    "watch": Case(
        tuple(f"watch/{fold}" for fold in range(5)), "right cases (subjects unseen)",
        "0.889 by a CRNN (Burns et al., 2018)",
        SHAPES,
    ),
    "ucr": Case(
        ("ACSF1", "ArrowHead", "GunPoint", "ItalyPowerDemand", "OSULeaf"), "right cases (mean of the five sets)",
        "0.932 by InceptionTime, 0.943 by HIVE-COTE 2",
        SHAPES, seeds=5, peer="aeon",
    ),
    "turkish": Case(
        ("turkish",), "right tags", "0.847: the most frequent tag of each word", {"steps": 1600}, peer="crfsuite",
        asked={"settings": CRF},
    ),
    "brown": Case(
        ("brown",), "right tags", "0.9015: the most frequent tag of each word",
        {"head": "categorical", "steps": 1200, "batch": 64, "dropout": 0.2}, peer="crfsuite", asked={"settings": CRF},
    ),
    "cmudict": Case(
        ("cmudict",), "wrong words", "0.339 by a WFST (Phonetisaurus), 0.31 by a Transformer, on another split",
        {"pattern": "lstm*2", "head": "ctc", "width": 144, "mlp": 0, "dropout": 0.05, "learning_rate": 5e-3,
         "weight_decay": 0.02, "seconds": 1500},
    ),
    "movielens": Case(
        ("movielens",), "HR@10 among all items", "0.145 and NDCG@10 0.077 by the item before (Markov)",
        {"pattern": "min-gru*2", "steps": 500}, seeds=5, peer="recbole", asked={"epochs": 5, "batch": 256},
    ),
}  # fmt: skip


def ours(case: Case, validate: bool) -> dict[str, Any]:
    """The mean over sets and seeds, and each of them."""
    each: dict[str, Any] = {}
    for name in case.sets:
        each[name] = [once(name, case.settings | {"seed": seed}, validate) for seed in range(case.seeds)]
        print(name, *(f"{row['score']:.4f}" for row in each[name]), flush=True)
    by_seed = [statistics.mean(row["score"] for row in rows) for rows in zip(*each.values(), strict=True)]
    return {
        "score": mean(each.values(), "score"),
        "spread": [min(by_seed), max(by_seed)],
        "ndcg": mean(each.values(), "ndcg") if get(case.sets[0]).task == "recommend" else None,
        "cpu": mean(each.values(), "cpu"),
        "cases": sum(rows[0]["cases"] for rows in each.values()),
        "parameters": max(rows[0]["parameters"] for rows in each.values()),
        "model": each[case.sets[0]][0]["model"],
        "each": {name: [row["score"] for row in rows] for name, rows in each.items()},
    }


def theirs(case: Case) -> dict[str, Any] | None:
    """The same of the peer, if it is there."""
    python = ROOT / f".venv-{case.peer}" / "bin" / "python"
    if not case.peer or not python.exists():
        return None
    others = {name: peer(python, name, case) for name in case.sets}
    return {
        "score": statistics.mean(statistics.mean(found["scores"]) for found in others.values()),
        "ndcg": others[case.sets[0]].get("ndcg"),
        "each": {name: found["scores"] for name, found in others.items()},
        "cpu": statistics.mean(found["cpu"] / len(found["scores"]) for found in others.values()),
    }


def mean(sets: Any, what: str) -> float:
    """Over the seeds of each set, then over sets."""
    return statistics.mean(statistics.mean(row[what] for row in rows) for rows in sets)


def once(name: str, settings: dict[str, Any], validate: bool) -> dict[str, Any]:
    """One estimator of one data set."""
    split, task = load(name), get(name).task
    train, test = split.train, split.validation if validate else split.test
    if task in ("classify", "recommend") and not validate:
        train = split.validation if task == "recommend" else train.join(split.validation)  # type: ignore[arg-type]
    model: Any = ESTIMATORS[task](**settings)
    if isinstance(train, Pairs) and model.head == "ctc":
        target = targets_of(train.target, torch.arange(len(train)))
        fits = CTC(int(target.max()) + 1).fits(target, train.source.lengths * model.frames)
        train = train.select(fits.nonzero()[:, 0])
    began = time.process_time()
    report = model.fit(train).evaluate(test)
    counted = next(report[name] for name in ("cases", "steps", "users") if name in report)
    return {
        "score": report[FOUND[task]], "ndcg": report.get("ndcg"), "cases": counted, "parameters": report["parameters"],
        "model": repr(model), "cpu": time.process_time() - began,
    }  # fmt: skip


def peer(python: Path, name: str, case: Case) -> dict[str, Any]:
    """What another library makes of the same data, in its own environment."""
    split, task = load(name), get(name).task
    asked: dict[str, Any] = {"peer": case.peer, "seeds": case.seeds, **case.asked}
    if task == "classify":
        assert isinstance(split.train, Sequences)
        asked |= {"train": _cases(split.train.join(split.validation)), "test": _cases(split.test)}  # type: ignore[arg-type]
    if task == "tag":
        asked |= {"train": _spelt(split.train), "test": _spelt(split.test)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "task.json").write_text(json.dumps(asked))
        script = Path(__file__).with_name("labels_peers.py")
        subprocess.run([python, script, folder], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        found: dict[str, Any] = json.loads((Path(folder) / "answer.json").read_text())
    return found


def _cases(sequences: Any) -> dict[str, Any]:
    """Cases of one length, [cases, channels, T], and their labels."""
    parts = sequences.values["x"].split(sequences.lengths.tolist())
    return {"x": torch.stack(parts).mT.tolist(), "y": sequences.values["y"].tolist()}


def _spelt(sequences: Any) -> dict[str, Any]:
    """Words and tags of each sentence."""
    (target,) = sequences.of_role("target")
    letters = sequences.fields["letters"].vocabulary
    table = ["".join(map(str, letters.decode(row[row >= 0]))) for row in sequences.spellings["letters"]]
    words = [table[row] for row in sequences.values["letters"].tolist()]
    tags = target.vocabulary.decode(sequences.values[target.name])
    ends = list(pairwise(sequences.offsets.tolist()))
    return {"words": [words[a:b] for a, b in ends], "tags": [tags[a:b] for a, b in ends]}


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row for each case."""
    names = [
        "row", "data", "what", "reached", "beside, on the same data", "floors and published figures",
        "one fit and its evaluation, seconds of one core", "parameters",
    ]  # fmt: skip
    lines = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    for name, case in CASES.items():
        if name not in found:
            continue
        row = found[name]
        reached = f"{row['score']:.4f}" + (f", NDCG@10 {row['ndcg']:.4f}" if row["ndcg"] else "")
        if case.seeds > 1:
            reached += f" (mean of {case.seeds} seeds, {row['spread'][0]:.4f} to {row['spread'][1]:.4f})"
        beside, other = "", row.get("peer")
        if other:
            beside = f"{PEERS[case.peer]}: {other['score']:.4f}"
            beside += f", NDCG@10 {other['ndcg']:.4f}" if other["ndcg"] else ""
            beside += f", {other['cpu']:.0f} s"
        sets = ", ".join(f"`{each}`" for each in case.sets)
        lines.append(
            f"| {name} | {sets} | {case.what} of {row['cases']} | {reached} | {beside} | {case.bars} | "
            f"{row['cpu']:.0f} | {row['parameters']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run those asked for, and write what is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labels", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(CASES), metavar="ROW", help=", ".join(CASES))
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.add_argument("--validate", action="store_true", help="predict validation parts; nothing is written")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    for name in options.only or CASES:
        row = ours(CASES[name], options.validate)
        print(
            json.dumps({name: row}) if options.json else f"{name}: {row['score']:.4f}, {row['cpu']:.0f} s", flush=True
        )
        if options.validate:
            continue
        write(name, row)
        if other := theirs(CASES[name]):
            print(
                json.dumps(other) if options.json else f"beside it {other['score']:.4f}, {other['cpu']:.0f} s",
                flush=True,
            )
            write(name, row | {"peer": other})


def write(name: str, row: dict[str, Any]) -> None:
    """Keep what was found, and show it."""
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    found[name] = row
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    shown = re.compile(r"(<!-- labels -->\n).*?(<!-- end -->)", re.DOTALL)
    PAGE.write_text(shown.sub(lambda m: m[1] + table(found) + "\n" + m[2], PAGE.read_text(), count=1))


if __name__ == "__main__":
    main()
