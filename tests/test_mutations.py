"""Files that a disk, a copy or an editor changed: an error of one line, or the numbers that were written."""

import os
import random
import re
import shutil

import pytest
import torch

import recurra
from recurra import LanguageModel, State
from recurra.models import files
from recurra.streaming.session import Session
from recurra.training import trainer
from recurra.training.config import TrainConfig

FEW, MANY = 10, pytest.param(75, marks=pytest.mark.slow)
"""Mutations of each kind of file."""


def flipped(data, at, rng):
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def another_digit(data, at, rng):
    digits = [match.start() for match in re.finditer(rb"\d", data[: 1 << 14])]
    at = rng.choice(digits) if digits else at
    return data[:at] + str(rng.randrange(10)).encode() + data[at + 1 :]


MUTATIONS = [
    flipped,
    another_digit,
    lambda data, at, rng: data[:at] + data[at + rng.choice([1, 4, 100]) :],
    lambda data, at, rng: data[:at] + rng.randbytes(rng.choice([1, 4, 100])) + data[at:],
    lambda data, at, rng: data[:at],
    lambda data, at, rng: data[:at] + bytes(64) + data[at + 64 :],
    lambda data, at, rng: data + data[at:],
    lambda data, at, rng: data[at:] + data[:at],
    lambda data, at, rng: data[:at] + data[at : at + 8][::-1] + data[at + 8 :],
]


def mutated(path, rng):
    """Change a file in one place; half of the places are in its head, where names, shapes and facts are."""
    data = path.read_bytes()
    at = rng.randrange(min(len(data), 600) if rng.random() < 0.5 else len(data))
    path.write_bytes(rng.choice(MUTATIONS)(data, at, rng))


def alike(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def held(folder, names, read, times):
    """`read` gives what it gave before, or refuses, however the files of these names in `folder` are changed."""
    whole = read(folder)
    refused = 0
    for number in range(times):
        seed = int.from_bytes(os.urandom(4), "little")
        rng, copy = random.Random(seed), folder.parent / f"copy {number}"
        shutil.copytree(folder, copy)
        name = rng.choice(names)
        mutated(copy / name, rng)
        try:
            again = read(copy)
        except recurra.InputError as error:
            refused += 1
            said = str(error).replace(str(copy), "")
        else:
            said = ""
            assert alike(again, whole), f"{name} gives other numbers, seed {seed}"
        assert "\n" not in said, f"{name}, seed {seed}: {said}"
        assert len(said) < 400, f"{name}, seed {seed}: {said}"
        shutil.rmtree(copy)
    assert refused >= times // 20


@pytest.mark.parametrize("times", [FEW, MANY])
def test_states(tmp_path, times):
    _, state = recurra.layer("lru", 8).double()(torch.randn(3, 4, 8, dtype=torch.float64))
    (tmp_path / "whole").mkdir()
    (state | {"position": torch.arange(3)}).save(tmp_path / "whole/state", {"of": "a test", "step": "1234"})
    held(tmp_path / "whole", ["state"], lambda folder: State.load(folder / "state"), times)


@pytest.mark.parametrize("times", [FEW, MANY])
def test_sessions(tmp_path, times):
    model = LanguageModel(64, 8, "mamba+slstm", mlp=0).eval()
    session = model.stream(seed=3)
    session.feed(bytes(range(60)))
    (tmp_path / "whole").mkdir()
    session.save(tmp_path / "whole/session")

    def read(folder):
        again = Session.load(model, folder / "session")
        return {"tokens": torch.tensor(list(again.generate(30)))} | again.state

    held(tmp_path / "whole", ["session"], read, times)


@pytest.mark.parametrize("times", [FEW, MANY])
def test_models(tmp_path, times):
    files.save(LanguageModel(16, 8, "lmu+lstm", mlp=2), tmp_path / "whole")
    tokens = torch.randint(0, 16, (2, 5))

    def read(folder):
        model = recurra.load(folder)
        with torch.no_grad():
            return model.state_dict() | {"logits": model(tokens)[0]}

    held(tmp_path / "whole", ["config.json", "model.safetensors"], read, times)


@pytest.mark.parametrize("times", [FEW, MANY])
def test_runs(tmp_path, times, monkeypatch):
    """What goes on from a run that was cut ends at the same weights."""
    monkeypatch.setattr(trainer, "loss_curve", lambda rows, picture: None)
    config = TrainConfig(
        pattern="min-gru", width=8, mlp=8, batch=2, window=8, steps=7, log_every=1, checkpoint_every=2, dropout=0.1
    )
    text = b"the quick brown fox jumps over the lazy dog. " * 9

    class Stop(Exception):
        pass

    def stop(metrics):
        if metrics["step"] == 5:
            raise Stop

    with pytest.raises(Stop):
        trainer.train(config, text, tmp_path / "whole", progress=stop)

    def read(folder):
        folder = shutil.copytree(folder, tmp_path / "goes on", dirs_exist_ok=True)
        try:
            trainer.train(config, text, folder, resume=True)
            return recurra.load(folder).state_dict()
        finally:
            shutil.rmtree(folder)

    held(tmp_path / "whole", ["config.json", "metrics.jsonl", "checkpoint.safetensors"], read, times)
