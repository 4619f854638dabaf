"""Training: it learns, it can be killed at any moment, and it refuses what it cannot do before doing anything."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from recurra.data.text import Windows, default_text, read, split
from recurra.errors import InputError, RecurraError
from recurra.models.files import load
from recurra.training.config import TrainConfig
from recurra.training.evaluate import bits_per_byte
from recurra.training.trainer import train

TEXT = b"the quick brown fox jumps over the lazy dog. " * 60
TINY = TrainConfig(pattern="min-gru", width=16, mlp=16, batch=4, window=16, steps=12, checkpoint_every=2, log_every=1)


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_fills_the_run_folder(tmp_path):
    result = train(replace(TINY, steps=120, learning_rate=1e-2), TEXT, tmp_path / "run")
    assert result["bits_per_byte"] < 3
    assert json.loads((tmp_path / "run/result.json").read_text()) == result
    assert set(result) >= {"bits_per_byte", "training_seconds", "tokens", "parameters", "layer"}
    assert (tmp_path / "run/loss.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 121))
    assert result["tokens"] == 120 * 4 * 16
    again = bits_per_byte(load(tmp_path / "run"), split(TEXT)[1])
    assert again == pytest.approx(result["bits_per_byte"])


PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from test_training import TEXT, TINY
from dataclasses import replace
from recurra.training.trainer import train
train(replace(TINY, steps=60, dropout=0.1), TEXT, Path(sys.argv[1]), resume=sys.argv[2] == "resume")
"""


def start(folder, how):
    here = os.path.dirname(__file__)
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), how], cwd=here)


def test_killed_at_any_moment_it_ends_at_the_same_weights(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, "fresh").wait() == 0
    process, kills = start(broken, "fresh"), 0
    while True:
        while process.poll() is None and not (broken / "checkpoint.safetensors").exists():
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.35) + (2.0 if kills else 0.0))
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        process = start(broken, "resume")
        if kills == 4:
            assert process.wait() == 0
            break
    assert kills > 0
    assert same(weights(whole), weights(broken))
    rows = [json.loads(line)["step"] for line in (broken / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, 61))


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        train(TINY, TEXT, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_resume_needs_a_run_the_same_config_and_the_same_data(tmp_path):
    with pytest.raises(InputError, match="no run to resume"):
        train(TINY, TEXT, tmp_path / "none", resume=True)
    train(TINY, TEXT, tmp_path / "run")
    before = weights(tmp_path / "run")
    with pytest.raises(InputError, match="width differ"):
        train(replace(TINY, width=8), TEXT, tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="other data"):
        train(TINY, TEXT + b"!", tmp_path / "run", resume=True)
    train(TINY, TEXT, tmp_path / "run", resume=True)
    assert same(weights(tmp_path / "run"), before)


@pytest.mark.parametrize("damage", [b"", b"rubbish" * 100, None])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    train(TINY, TEXT, tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(InputError, match="damaged or of another run"):
        train(TINY, TEXT, tmp_path, resume=True)


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    train(TINY, TEXT, tmp_path / "whole")
    done = []

    def full(handle):
        done.append(handle)
        if len(done) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RecurraError, match="No space left on device"):
            train(TINY, TEXT, tmp_path / "run")
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith(".")]
    train(TINY, TEXT, tmp_path / "run", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_data_that_is_not_there(tmp_path):
    for path, words in ((tmp_path / "none", "does not exist"), (tmp_path / "empty", "is empty")):
        if words == "is empty":
            path.write_bytes(b"")
        with pytest.raises(InputError, match=words):
            read(path)
    with pytest.raises(InputError, match="use a smaller batch or window"):
        train(TINY, b"short", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_windows_follow_one_another():
    windows = Windows(bytes(range(250)) * 8, batch=3, length=10)
    for n in range(windows.per_pass - 1):
        a, b = windows.window(n), windows.window(n + 1)
        assert a.shape == (3, 11)
        assert torch.equal(a[:, -1], b[:, 0])
    assert windows.starts(0)
    assert windows.starts(windows.per_pass)
    assert not windows.starts(1)
    assert not torch.equal(windows.window(0), windows.window(windows.per_pass))


def test_the_built_in_text_is_the_language_reference():
    text = default_text()
    assert 300_000 < len(text) < 1_000_000
    assert b'The "for" statement' in text
    training, held_out = split(text)
    assert training + held_out == text
    assert len(held_out) == len(text) // 10


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("steps", 0), ("dropout", 1.0), ("learning_rate", -1.0)])
def test_config_is_checked(name, value):
    with pytest.raises(InputError, match=name):
        replace(TINY, **{name: value})
