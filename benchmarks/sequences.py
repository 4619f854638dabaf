"""`python -m benchmarks.sequences NAME ... --seconds 300`: tags and translations of data sets with known figures, on
their tests; writes sequences.json beside this file, and the table of docs/tasks.md.

A CRF by sklearn-crfsuite learns the same tags where that library is installed, as in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from recurra.data.sequences import Sequences
from recurra.data.sets import load
from recurra.data.words import Pairs
from recurra.memory import keep_freed_memory
from recurra.tasks.heads.ctc import CTC
from recurra.tasks.tagger import Tagger
from recurra.tasks.translator import Translator, targets_of

FILE, PAGE = Path(__file__).with_name("sequences.json"), Path(__file__).parents[1] / "docs" / "tasks.md"
BARS = {
    "cmudict": "wrong words: 0.339 by a WFST (Phonetisaurus), 0.31 by a Transformer, on another split",
    "turkish": "0.847: the most frequent tag of each word",
    "brown": "0.9015: the most frequent tag of each word",
}


def cmudict(seconds: float) -> dict[str, Any]:
    """Letters to phones: wrong words, less is better."""
    split = load("cmudict")
    assert isinstance(split.train, Pairs)
    model = Translator(
        "lstm*2", head="ctc", frames=2, width=144, mlp=0, dropout=0.05, learning_rate=5e-3, weight_decay=0.02, batch=32,
        seconds=seconds,
    )  # fmt: skip
    target = targets_of(split.train.target, torch.arange(len(split.train)))
    fits = CTC(int(target.max()) + 1).fits(target, split.train.source.lengths * model.frames)
    report = model.fit(split.train.select(fits.nonzero()[:, 0])).evaluate(split.test)
    return {
        "score": report["wrong"],
        "cases": report["cases"],
        "parameters": report["parameters"],
        "model": repr(model),
    }


def tags(name: str, seconds: float) -> dict[str, Any]:
    """Tags of words: the share that is right."""
    split = load(name)
    assert isinstance(split.train, Sequences)
    head = "crf" if name == "turkish" else "categorical"  # a field of Brown's several hundred tags takes too long
    model = Tagger("lstm", head=head, seconds=seconds)
    report = model.fit(split.train).evaluate(split.test)
    peer = crfsuite(split.train, split.test) if find_spec("sklearn_crfsuite") else None
    return {
        "score": report["accuracy"], "cases": report["steps"], "parameters": report["parameters"], "model": repr(model),
        "crfsuite": peer,
    }  # fmt: skip


def crfsuite(train: Any, test: Any) -> float:
    """The share of tags that are right by a CRF on words, their ends and their neighbours."""
    import sklearn_crfsuite  # in an environment of its own

    sides = [_spelt(side) for side in (train, test)]
    crf = sklearn_crfsuite.CRF(algorithm="lbfgs", c1=0.1, c2=0.1, max_iterations=50)
    crf.fit([_features(words) for words, _ in sides[0]], [tags for _, tags in sides[0]])
    said = crf.predict([_features(words) for words, _ in sides[1]])
    pairs = [(a, b) for row, (_, true) in zip(said, sides[1], strict=True) for a, b in zip(row, true, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def _spelt(sequences: Sequences) -> list[tuple[list[str], list[str]]]:
    """Words and tags of each sentence."""
    letters, (target,) = sequences.fields["letters"].vocabulary, sequences.of_role("target")
    assert letters is not None
    assert target.vocabulary is not None
    table = ["".join(str(letter) for letter in letters.decode(row[row >= 0])) for row in sequences.spellings["letters"]]
    words = [table[row] for row in sequences.values["letters"].tolist()]
    tags = [str(tag) for tag in target.vocabulary.decode(sequences.values[target.name])]
    return [(words[a:b], tags[a:b]) for a, b in pairwise(sequences.offsets.tolist())]


def _features(words: list[str]) -> list[dict[str, Any]]:
    edge = ["", *(word.lower() for word in words), ""]
    return [
        {"word": edge[n], "before": edge[n - 1], "after": edge[n + 1], "large": words[n - 1][:1].isupper()}
        | {f"end{k}": edge[n][-k:] for k in (1, 2, 3, 4)} | {f"begin{k}": edge[n][:k] for k in (1, 2, 3)}
        | {"digit": any(c.isdigit() for c in edge[n])}
        for n in range(1, len(words) + 1)
    ]  # fmt: skip


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row for each data set."""
    names = ("data", "reached", "sklearn-crfsuite", "published", "trained for", "parameters")
    lines = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    for name, row in found.items():
        peer = "not run" if row.get("crfsuite") is None else f"{row['crfsuite']:.4f}"
        what = "wrong words" if name == "cmudict" else "right tags"
        lines.append(
            f"| `{name}` | {what}: {row['score']:.4f} of {row['cases']} | {'' if name == 'cmudict' else peer} | "
            f"{BARS[name]} | {row['cpu']:.0f} s of one core, evaluation included | {row['parameters']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run those asked for, and write what is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sequences", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(BARS), choices=list(BARS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=300.0, help="to train each")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in options.names:
        began = time.process_time()
        row = cmudict(options.seconds) if name == "cmudict" else tags(name, options.seconds)
        found[name] = row | {"cpu": time.process_time() - began, "seconds": options.seconds}
        print(name, json.dumps(found[name]), flush=True)
        FILE.write_text(json.dumps(found, indent=1) + "\n")
        text = PAGE.read_text()
        shown = re.compile(r"(<!-- measured -->\n).*?(\n<!-- end -->)", re.DOTALL)
        PAGE.write_text(shown.sub(lambda m: m[1] + table(found) + m[2], text, count=1))


if __name__ == "__main__":
    main()
