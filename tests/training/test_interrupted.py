"""Runs that are interrupted, and what goes on from them; folders that two runs would write to."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from test_training import TEXT, TINY, everything, logged, same, weights

from recurra import sealed
from recurra.cli.train import _how_to_go_on
from recurra.errors import InputError
from recurra.training import checkpoint, trainer
from recurra.training.config import TrainConfig
from recurra.training.run_folder import begun
from recurra.training.trainer import train

RARE = replace(TINY, dropout=0.1, checkpoint_every=100)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


pytestmark = pytest.mark.usefixtures("usual_interrupt")


@pytest.mark.parametrize("step", [1, 5, 11, 12])
@pytest.mark.parametrize("moment", ["update", "progress"])
def test_interrupted_it_goes_on_to_the_same_weights(tmp_path, monkeypatch, step, moment):
    """In the middle of an update, and between two of them."""
    train(RARE, TEXT, tmp_path / "whole")
    step_of, done = trainer._Run._update, []

    def update(run):
        done.append(run)
        if moment == "update" and len(done) == step:
            interrupt()
        return step_of(run)

    def progress(metrics):
        if moment == "progress" and metrics["step"] == step:
            interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Run, "_update", update)
        with pytest.raises(KeyboardInterrupt):
            train(RARE, TEXT, tmp_path / "run", progress=progress)
    assert len(done) == min(12, step + (moment == "progress"))
    assert (tmp_path / "run/checkpoint.safetensors").exists()
    left = []
    train(RARE, TEXT, tmp_path / "run", resume=True, progress=left.append)
    assert len(left) == 12 - len(done)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert [row["step"] for row in logged(tmp_path / "run")] == list(range(1, 13))


def test_interrupted_twice_it_stops_at_once(tmp_path, monkeypatch):
    def update(run):
        interrupt()
        interrupt()
        raise AssertionError(f"it went on in {run}")

    monkeypatch.setattr(trainer._Run, "_update", update)
    with pytest.raises(KeyboardInterrupt):
        train(RARE, TEXT, tmp_path / "run")


def test_in_another_thread_interrupts_are_left_alone(tmp_path):
    seen = []
    thread = threading.Thread(target=lambda: train(RARE, TEXT, tmp_path / "run", progress=seen.append))
    thread.start()
    thread.join()
    assert len(seen) == 12


COMMAND = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from recurra.training import checkpoint, trainer
metrics_of = trainer._Run._metrics

def metrics(run, loss):
    if run.at.step == 7:
        os.kill(os.getpid(), signal.SIGINT)
    return metrics_of(run, loss)

trainer._Run._metrics = metrics
from recurra.cli.main import main
main()
"""


def test_the_command_that_is_told_goes_on_as_it_stands(tmp_path):
    (tmp_path / "my text.txt").write_bytes(TEXT)
    asked = ["train", "--data", "my text.txt", "--pattern", "min-gru", "--width", "16", "--mlp", "16", "--steps", "20"]
    asked += ["--batch", "4", "--window", "16", "--seed", "3", "--json"]

    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(*command):
        return subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, env=one_thread)

    broken = run("-c", COMMAND, *asked, "--out", "a run")
    assert broken.returncode == 130, broken.stderr
    assert len(broken.stderr.splitlines()) == 1
    command = shlex.split(broken.stderr.split("go on with: ")[1])
    assert command == ["recurra", "train", "--out", "a run", "--resume"]
    ended = run("-m", "recurra.cli.main", *command[1:])
    assert ended.returncode == 0, ended.stderr
    train(begun(tmp_path / "a run")[0], TEXT, tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "a run"))
    assert [row["step"] for row in logged(tmp_path / "a run")] == [10, 20]


def test_nothing_is_promised_where_nothing_was_written(tmp_path):
    assert "go on" not in _how_to_go_on(tmp_path, None)
    train(TINY, TEXT, tmp_path)
    assert "go on with: recurra train" in _how_to_go_on(tmp_path, None)


def test_a_run_remembers_where_its_text_lies(tmp_path):
    train(TINY, TEXT, tmp_path, source="/there/my.txt")
    about = json.loads((tmp_path / "config.json").read_text())
    train(TINY, TEXT, tmp_path, resume=True)
    assert json.loads((tmp_path / "config.json").read_text()) == about
    train(TINY, TEXT, tmp_path, resume=True, source="/moved/my.txt")
    assert json.loads((tmp_path / "config.json").read_text()) == about | {"data": "/moved/my.txt"}


def test_two_runs_are_not_at_work_in_one_folder(tmp_path):
    refused = []

    def again(metrics):
        for resume in (True, False):
            with pytest.raises(InputError, match="is in use by another run") as caught:
                train(RARE, TEXT, tmp_path / "run", resume=resume)
            refused.append((metrics["step"], str(caught.value)))

    train(RARE, TEXT, tmp_path / "run", progress=again)
    assert len(refused) == 2 * 12
    train(RARE, TEXT, tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="not empty"):
        train(RARE, TEXT, tmp_path / "run")
    train(RARE, TEXT, tmp_path / "run", resume=True)


@pytest.mark.parametrize("width", [10**6, 2**31 - 1, 2**40])
def test_models_beyond_memory_are_refused_before_anything_is_made(tmp_path, width):
    with pytest.raises(InputError, match="width is") as caught:
        train(TrainConfig(pattern="lstm", width=width), TEXT * 10, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"model": None}, {"model": {}}, {"training": None}, {"training": []}, {"training": {"width": 10**9}},
        {"training": {"learning_rate": 10**400}}, {"training": {"pattern": ["lstm"]}}, {"training": {"other": 1}},
        {"data": 3}, {"data_sha256": None},
        {"products": 3}, {"products": {"torch": 1.0}}, {"products": {"torch": -1.0, "onednn": 1.0}},
    ],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_a_run_with_another_config_is_left_alone(tmp_path, change):
    train(TINY, TEXT, tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    if isinstance(change.get("training"), dict):
        change = {"training": about["training"] | change["training"]}
    (tmp_path / "config.json").write_text(json.dumps(about | change))
    before = everything(tmp_path)
    with pytest.raises(InputError, match=r"does not describe|differ|was begun") as caught:
        train(TINY, TEXT, tmp_path, resume=True)
    assert "\n" not in str(caught.value)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1}, {"step": 10**30}, {"step": "2"}, {"step": float("inf")}, {"step": None}, {"seconds": -1.0},
        {"seconds": float("nan")}, {"seconds": "x"}, {"run": None}, {"model.norm.weight": torch.zeros(3)},
        {"model.norm.weight": torch.zeros(16).double()}, {"other": torch.zeros(1)},
        {"optimiser.99.step": torch.zeros(1)}, {"optimiser.x": torch.zeros(1)},
        {"optimiser.0.momentum": torch.zeros(5)}, {"optimiser.0.exp_avg": torch.zeros(())},
        {"random": torch.zeros(5)},
        {"random": torch.zeros(5056, dtype=torch.uint8)}, {"state.blocks.0.h": torch.zeros(4, 3)},
    ],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_a_checkpoint_that_is_whole_but_wrong(tmp_path, change):
    """Its digest fits: somebody wrote it so."""
    train(replace(TINY, seconds=1e-9), TEXT, tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    tensors, facts = sealed.read(path, "no checkpoint")
    meta = json.loads(facts[checkpoint.META])
    ((name, value),) = change.items()
    if isinstance(value, torch.Tensor):
        tensors[name] = value
    else:
        meta[name] = value
    sealed.write(path, "checkpoint", tensors, {checkpoint.META: json.dumps(meta)})
    said = ""
    try:
        train(replace(TINY, seconds=1e-9), TEXT, tmp_path, resume=True)
    except InputError as error:
        said = str(error)
    assert said or name in ("other", "state.blocks.0.h")  # which are not read, since the run is over
    assert said.count("\n") == 0
    assert len(said.replace(str(tmp_path), "")) < 300
