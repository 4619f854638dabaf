"""Labels by other libraries: `benchmarks.labels` runs this file in the environment that has one of them, which need not
have this project's: `python labels_peers.py FOLDER` reads task.json there and writes answer.json."""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock


def minirocket(task: dict[str, Any]) -> dict[str, Any]:
    """The share of cases that are right, by aeon, for each seed; a session costs the first its compilation."""
    import numpy as np
    from aeon.classification.convolution_based import MiniRocketClassifier

    (x, y), (new, actual) = ((np.array(side["x"]), np.array(side["y"])) for side in (task["train"], task["test"]))
    models = (MiniRocketClassifier(random_state=seed, n_jobs=1) for seed in range(task["seeds"]))
    return {"scores": [float((model.fit(x, y).predict(new) == actual).mean()) for model in models]}


def crfsuite(task: dict[str, Any]) -> dict[str, Any]:
    """The share of tags that are right by a CRF on words, their ends and their neighbours."""
    import sklearn_crfsuite

    crf = sklearn_crfsuite.CRF(**task["settings"])
    crf.fit([features(words) for words in task["train"]["words"]], task["train"]["tags"])
    said = crf.predict([features(words) for words in task["test"]["words"]])
    rows = zip(said, task["test"]["tags"], strict=True)
    right = [a == b for row, true in rows for a, b in zip(row, true, strict=True)]
    return {"scores": [sum(right) / len(right)]}


def features(words: list[str]) -> list[dict[str, Any]]:
    """Of each word of a sentence."""
    edge = ["", *(word.lower() for word in words), ""]
    return [
        {"word": edge[n], "before": edge[n - 1], "after": edge[n + 1], "large": words[n - 1][:1].isupper()}
        | {f"end{k}": edge[n][-k:] for k in (1, 2, 3, 4)} | {f"begin{k}": edge[n][:k] for k in (1, 2, 3)}
        | {"digit": any(c.isdigit() for c in edge[n])}
        for n in range(1, len(words) + 1)
    ]  # fmt: skip


def gru4rec(task: dict[str, Any]) -> dict[str, Any]:
    """HR@10 and NDCG@10 of recbole's GRU4Rec on its own copy of the same events, with its own options but for the
    size of a batch, after so many epochs that its validation was best."""
    _as_its_numpy_was()
    import torch

    torch.set_num_threads(1)
    recbole = import_module("recbole")
    settings = {
        "train_neg_sample_args": None, "metrics": ["Hit", "NDCG"], "topk": [10], "valid_metric": "NDCG@10",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": None},
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "TIME_FIELD": "timestamp", "stopping_step": 5,
        "data_path": str(Path(recbole.__file__).parent / "dataset_example"), "checkpoint_dir": task["folder"],
        "epochs": task["epochs"], "train_batch_size": task["batch"], "use_gpu": False, "nproc": 1,
        "show_progress": False,
    }  # fmt: skip
    run = import_module("recbole.quick_start").run_recbole
    found = run(model="GRU4Rec", dataset="ml-100k", config_dict=settings)["test_result"]
    return {"scores": [found["hit@10"]], "ndcg": found["ndcg@10"]}


def _as_its_numpy_was() -> None:
    """What recbole asks of libraries as they were: names that NumPy has dropped, pickles that torch now has to be
    allowed to read, and modules that only its searches and reports need."""
    import numpy as np
    import torch

    for name in ("ray", "ray.tune", "ray.tune.schedulers", "plotly", "wandb", "torch.utils.tensorboard"):
        sys.modules.setdefault(name, MagicMock())
    for name, kind in {"bool": bool, "int": int, "float": float, "float_": np.float64, "bool8": np.bool_}.items():
        if name not in vars(np):
            setattr(np, name, kind)
    for name, kind in {"complex_": np.complex128, "unicode_": np.str_, "long": np.int64, "object": object}.items():
        if name not in vars(np):
            setattr(np, name, kind)
    read = torch.load
    torch.load = lambda *args, **named: read(*args, **named | {"weights_only": False})


PEERS = {"aeon": minirocket, "crfsuite": crfsuite, "recbole": gru4rec}


def main(folder: Path) -> None:
    """Read a task and answer it."""
    task = json.loads((folder / "task.json").read_text())
    began = time.process_time()
    answer = PEERS[task["peer"]](task | {"folder": str(folder)})
    (folder / "answer.json").write_text(json.dumps(answer | {"cpu": time.process_time() - began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
