"""Training: it learns, it can be killed at any moment, and it refuses what it cannot do before doing anything."""

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from recurra.data.text import split
from recurra.errors import EngineRefused, InputError, RecurraError
from recurra.models.files import load
from recurra.training.config import TrainConfig
from recurra.training.evaluate import bits_per_byte
from recurra.training.run_folder import FILES
from recurra.training.trainer import train

TEXT = b"the quick brown fox jumps over the lazy dog. " * 60
TINY = TrainConfig(pattern="min-gru", width=16, mlp=16, batch=4, window=16, steps=12, checkpoint_every=2, log_every=1)


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def everything(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_learns_and_fills_the_run_folder(tmp_path):
    config, seen = replace(TINY, steps=120, learning_rate=1e-2, warmup=10), []
    result = train(config, TEXT, tmp_path / "run", progress=seen.append)
    assert result["bits_per_byte"] < 3
    assert sorted(os.listdir(tmp_path / "run")) == sorted(FILES)
    assert json.loads((tmp_path / "run/result.json").read_text()) == result
    assert set(result) >= {"bits_per_byte", "training_seconds", "tokens", "parameters", "layer"}
    assert result["layer"] == "min-gru"
    assert result["tokens"] == 120 * 4 * 16
    assert (tmp_path / "run/loss.png").read_bytes().startswith(b"\x89PNG")
    rows = logged(tmp_path / "run")
    assert rows == seen
    assert [row["step"] for row in rows] == list(range(1, 121))
    assert max(row["learning_rate"] for row in rows) == pytest.approx(1e-2)
    assert 0 < rows[-1]["learning_rate"] < 1e-5
    model = load(tmp_path / "run")
    assert result["parameters"] == sum(p.numel() for p in model.parameters())
    assert bits_per_byte(model, split(TEXT)[1]) == pytest.approx(result["bits_per_byte"])


def test_the_seed_decides(tmp_path):
    config = replace(TINY, dropout=0.2)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(replace(config, seed=seed), TEXT, tmp_path / name)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_products_in_bfloat16_leave_weights_and_states_alone(tmp_path):
    config = replace(TINY, pattern="min-gru+lstm", width=32, steps=60, learning_rate=1e-2, warmup=10, precision="bf16")
    result = train(config, TEXT, tmp_path / "whole")
    assert result["bits_per_byte"] < 4
    train(replace(config, precision="fp32"), TEXT, tmp_path / "fp32")
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "fp32"))
    kept = load_file(tmp_path / "whole/checkpoint.safetensors")
    assert {t.dtype for name, t in kept.items() if name != "random"} == {torch.float32}

    def stop(metrics):
        if metrics["step"] == 31:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(config, TEXT, tmp_path / "cut", progress=stop)
    train(config, TEXT, tmp_path / "cut", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_a_time_limit_only_stops(tmp_path):
    result = train(replace(TINY, seconds=1e-9), TEXT, tmp_path)
    assert result["tokens"] == 4 * 16
    assert [row["step"] for row in logged(tmp_path)] == [1]
    assert train(replace(TINY, seconds=1e-9), TEXT, tmp_path, resume=True)["tokens"] == 4 * 16


# --- killed -----------------------------------------------------------------------------------------------------------
PROGRAM = """
import os, signal, sys, torch
torch.set_num_threads(1)
from dataclasses import replace
from pathlib import Path
from test_training import TEXT, TINY
from recurra.training import checkpoint
from recurra.training.trainer import train

folder, dies_at, calls = Path(sys.argv[1]), int(sys.argv[2]), 0

def count(frame, event, argument):
    global calls
    calls += 1
    if calls == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)

def saved(*arguments, save=checkpoint.save):
    save(*arguments)
    checkpoint.save = save
    sys.setprofile(count)

checkpoint.save = saved
config = replace(TINY, pattern="min-gru+lstm", steps=150, dropout=0.1)
train(config, TEXT, folder, resume=(folder / "checkpoint.safetensors").exists())
sys.setprofile(None)
print(calls)
"""


def start(program, *args):
    """Run a program, which may be killed; what it prints and how it ends."""
    command = [sys.executable, "-c", program, *map(str, args)]
    ended = subprocess.run(command, cwd=os.path.dirname(__file__), stdout=subprocess.PIPE, text=True, check=False)
    return ended.stdout, ended.returncode


def test_killed_at_random_moments_it_ends_at_the_same_weights(tmp_path):
    """A moment is a number of calls and returns since a process wrote its first checkpoint."""
    whole, broken, never = tmp_path / "whole", tmp_path / "broken", 0
    said, code = start(PROGRAM, whole, never)
    assert code == 0
    for _ in range(3):
        moment = random.randrange(1, int(said) // 5)
        assert start(PROGRAM, broken, moment)[1] == -signal.SIGKILL, moment
    assert start(PROGRAM, broken, never)[1] == 0
    assert same(weights(whole), weights(broken))
    assert [row["step"] for row in logged(broken)] == list(range(1, 151))


EVERY_WRITE = """
import itertools, os, signal, sys, torch
torch.set_num_threads(1)
from dataclasses import replace
from pathlib import Path
from recurra.files import write_atomically
from recurra.training import trainer
from test_training import TEXT, TINY

trainer.loss_curve = lambda rows, picture: write_atomically(picture, repr(rows).encode())
config = replace(TINY, steps=4, dropout=0.1)

def run(folder, resume, dies_at):
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    chances = itertools.count()
    def deadly(function):
        def call(*args):
            next(chances) == dies_at and os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args)
            next(chances) == dies_at and os.kill(os.getpid(), signal.SIGKILL)
            return result
        return call
    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
    trainer.train(config, TEXT, folder, resume)
    os._exit(0)

root = Path(sys.argv[1])
trainer.train(config, TEXT, root / "whole")
for moment in itertools.count():
    killed = run(root / str(moment), False, moment)
    if not killed:
        break
    (root / str(moment) / "before").write_text(" ".join(os.listdir(root / str(moment))))
    (root / str(moment) / "before").rename(root / f"before{moment}")
    assert not run(root / str(moment), True, None)
"""


def test_killed_at_every_single_write_it_ends_at_the_same_weights(tmp_path):
    assert start(EVERY_WRITE, tmp_path)[1] == 0
    broken = [path for path in tmp_path.iterdir() if path.is_dir() and path.name != "whole"]
    assert len(broken) > 30
    left_half_written = [path for path in tmp_path.glob("before*") if " ." in " " + path.read_text()]
    assert len(left_half_written) > 5
    for folder in broken:
        assert sorted(os.listdir(folder)) == sorted(FILES), folder
        assert same(weights(tmp_path / "whole"), weights(folder)), folder
        assert [row["step"] for row in logged(folder)] == [1, 2, 3, 4], folder
        assert (folder / "config.json").read_bytes() == (tmp_path / "whole/config.json").read_bytes()


def test_a_half_logged_line_is_logged_again(tmp_path):
    train(TINY, TEXT, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 13, "lo')
    train(TINY, TEXT, tmp_path, resume=True)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(lines)


# --- refused ----------------------------------------------------------------------------------------------------------
def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    (tmp_path / ".checkpoint.safetensors.abcd1234").write_text("precious")
    before = everything(tmp_path)
    with pytest.raises(InputError, match="not empty"):
        train(TINY, TEXT, tmp_path)
    with pytest.raises(InputError, match="no run to resume"):
        train(TINY, TEXT, tmp_path, resume=True)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    before = everything(tmp_path)
    with pytest.raises(InputError, match=r"config\.json' does not describe a training run"):
        train(TINY, TEXT, tmp_path, resume=True)
    assert everything(tmp_path) == before


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("precious")
    for resume in (False, True):
        with pytest.raises(RecurraError, match="file"):
            train(TINY, TEXT, tmp_path / "file", resume)
    assert (tmp_path / "file").read_text() == "precious"


def test_resume_needs_a_run_the_same_config_and_the_same_data(tmp_path):
    with pytest.raises(InputError, match="no run to resume"):
        train(TINY, TEXT, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    train(TINY, TEXT, tmp_path / "run")
    for without in ((), ("checkpoint.safetensors", "metrics.jsonl")):
        for name in without:
            (tmp_path / "run" / name).unlink()
        before = everything(tmp_path / "run")
        with pytest.raises(InputError, match="width, seed differ"):
            train(replace(TINY, width=8, seed=3), TEXT, tmp_path / "run", resume=True)
        with pytest.raises(InputError, match="other data"):
            train(TINY, TEXT + b"!", tmp_path / "run", resume=True)
        assert everything(tmp_path / "run") == before
    result = before["model.safetensors"]
    train(TINY, TEXT, tmp_path / "run", resume=True)
    assert (tmp_path / "run/model.safetensors").read_bytes() == result


def test_a_checkpoint_that_is_damaged_or_foreign_is_refused(tmp_path):
    train(TINY, TEXT, tmp_path / "run")
    train(replace(TINY, seed=1), TEXT, tmp_path / "other")
    path = tmp_path / "run/checkpoint.safetensors"
    content = path.read_bytes()
    save_file({"a": torch.zeros(3)}, tmp_path / "alien")
    flipped = bytearray(content)
    flipped[-len(content) // 3] ^= 1
    for damage, words in (
        (b"", "damaged"),
        (b"rubbish" * 100, "damaged"),
        (content[: len(content) // 2], "damaged"),
        (bytes(flipped), "damaged"),
        ((tmp_path / "alien").read_bytes(), "none of ours"),
        ((tmp_path / "other/checkpoint.safetensors").read_bytes(), "of another run"),
    ):
        path.write_bytes(damage)
        before = everything(tmp_path / "run")
        with pytest.raises(InputError, match=words):
            train(TINY, TEXT, tmp_path / "run", resume=True)
        assert everything(tmp_path / "run") == before


def test_metrics_that_are_none_are_refused(tmp_path):
    train(TINY, TEXT, tmp_path)
    (tmp_path / "metrics.jsonl").write_text("my notes\n")
    with pytest.raises(InputError, match="move it away"):
        train(TINY, TEXT, tmp_path, resume=True)
    assert (tmp_path / "metrics.jsonl").read_text() == "my notes\n"


@pytest.mark.parametrize("place", [1, 2, 3, 6, 20, 22, 24])
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch, place):
    train(TINY, TEXT, tmp_path / "whole")
    done = []

    def full(handle):
        done.append(handle)
        if len(done) >= place:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RecurraError, match="No space left on device"):
            train(TINY, TEXT, tmp_path / "run")
    assert not [name for name in os.listdir(tmp_path / "run") if name.startswith(".")]
    train(TINY, TEXT, tmp_path / "run", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert [row["step"] for row in logged(tmp_path / "run")] == list(range(1, 13))


@pytest.mark.parametrize("limit", [100, 1000, 20_000])
def test_the_kernel_refusing_to_write_on_leaves_no_half_file(tmp_path, limit):
    """A file-size limit makes writes stop short half-way, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(RecurraError, match="cannot be written"):
            train(replace(TINY, checkpoint_every=100), TEXT, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [name for name in os.listdir(tmp_path / "run") if name.startswith(".")]
    for name, content in everything(tmp_path / "run").items():
        assert name in ("config.json", "metrics.jsonl")
        assert not content or content.endswith(b"\n")
    train(replace(TINY, checkpoint_every=100), TEXT, tmp_path / "run", resume=True)
    assert [row["step"] for row in logged(tmp_path / "run")] == list(range(1, 13))


@pytest.mark.parametrize(
    ("config", "data", "words"),
    [
        (TINY, b"short", "use a smaller batch or window"),
        (replace(TINY, batch=1, window=1), b"0123456789ab", "held out"),
        (TINY, "a str", "data is 'a str'; expected bytes"),
        (replace(TINY, engine="warp"), TEXT, "engine is 'warp'"),
    ],
)
def test_what_cannot_be_trained_makes_no_folder(tmp_path, config, data, words):
    with pytest.raises(InputError, match=words):
        train(config, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_engine_that_refuses_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("recurra.engines.loop.refuses", lambda problem: "not today")
    with pytest.raises(EngineRefused, match="not today"):
        train(replace(TINY, engine="loop"), TEXT, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_explodes_says_so(tmp_path):
    with pytest.raises(RecurraError, match="smaller learning rate"):
        train(replace(TINY, learning_rate=1e30, warmup=0, clip=1e30), TEXT, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pattern", "mamba*"), ("width", 0), ("width", 8.5), ("batch", True), ("steps", 0), ("steps", "3"),
        ("dropout", 1.0), ("learning_rate", -1.0), ("learning_rate", float("inf")), ("clip", 0.0),
        ("clip", float("nan")), ("weight_decay", -1.0), ("warmup", -1), ("seed", "a"), ("seconds", 0),
    ],
)  # fmt: skip
def test_config_is_checked(name, value):
    with pytest.raises(InputError, match=name):
        replace(TINY, **{name: value})


def test_mlps_may_be_left_out(tmp_path):
    train(replace(TINY, mlp=0, steps=2), TEXT, tmp_path / "run")
    assert not any("mlp" in name for name in load(tmp_path / "run").state_dict())
