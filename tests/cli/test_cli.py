"""The command line as a person meets it: help, bad input, JSON, silence when nobody watches."""

import json
import os
import subprocess
import sys

import pytest

import recurra

SMALL = ["--pattern", "min-gru", "--width", "16", "--mlp", "16", "--batch", "4", "--window", "16"]


def run(*args, **options):
    return subprocess.run(
        [sys.executable, "-m", "recurra.cli.main", *map(str, args)], capture_output=True, text=True, **options
    )


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return path


def test_help_teaches():
    overview = run("--help").stdout
    for verb in ("train", "generate", "evaluate", "layers"):
        assert verb in overview
        shown = run(verb, "--help").stdout
        assert f"recurra {verb}" in shown.split("Options")[0]


def test_train_evaluate_generate(tmp_path, text):
    out = tmp_path / "run"
    trained = run("train", "--data", text, "--out", out, "--steps", 5, *SMALL, "--json")
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr == ""
    result = json.loads(trained.stdout)
    assert set(result["others"]) == {"gzip", "xz", "trigram"}
    evaluated = run("evaluate", out, "--data", text, "--json")
    assert json.loads(evaluated.stdout)["bits_per_byte"] > 0
    one = run("generate", out, "--prompt", "the ", "--count", 20, "--save", tmp_path / "session")
    assert one.stdout.startswith("the ")
    two = run("generate", out, "--load", tmp_path / "session", "--count", 5)
    assert two.returncode == 0, two.stderr
    shown = run("train", "--out", out, "--data", text, "--resume")
    assert "bits per byte" in shown.stdout
    assert "A sample:" in shown.stdout


def test_layers_lists_the_registry():
    rows = json.loads(run("layers", "--width", 16, "--json").stdout)
    assert [row["name"] for row in rows] == list(recurra.layers())
    assert all(row["parameters"] > 0 and row["lane"] in ("channel", "head", "layer") for row in rows)
    table = run("layers").stdout
    assert all(name in table for name in recurra.layers())
    chosen = json.loads(run("layers", "--family", "delta-rule", "--search", "yang 2024", "--json").stdout)
    assert [row["name"] for row in chosen] == list(recurra.layers(family="delta-rule", search="yang 2024"))
    assert {row["family"] for row in chosen} == {"delta-rule"}


def test_bad_input_is_one_message_and_exit_code_2(tmp_path, text):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(b"short")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").write_text("precious")
    (tmp_path / "plain").write_text("a file")
    new = tmp_path / "new"
    cases = [
        (["train", "--data", tmp_path / "none", "--out", new], "does not exist"),
        (["train", "--data", tmp_path / "empty", "--out", new], "is empty"),
        (["train", "--data", tmp_path / "short", "--out", new], "use a smaller batch or window"),
        (["train", "--data", text, "--out", tmp_path / "used", *SMALL], "not empty"),
        (["train", "--data", text, "--out", new, *SMALL, "--pattern", "lsmt"], "layer 'lsmt' is not known"),
        (["train", "--data", text, "--out", new, *SMALL, "--width", "0"], "width is 0"),
        (["train", "--data", text, "--out", new, "--engine", "warp", *SMALL], "engine is 'warp'"),
        (["train", "--data", text, "--out", new, *SMALL, "--steps", "0"], "steps is 0"),
        (["generate", tmp_path / "none"], "config.json"),
        (["generate", tmp_path / "used"], "config.json"),
        (["evaluate", tmp_path / "none"], "is no folder; expected what `recurra fit` or `recurra train` has made"),
        (["train", "--data", text, "--out", tmp_path / "plain", *SMALL], "plain"),
        (["train", "--data", text, "--out", new, *SMALL, "--sample", "-1"], "sample is -1"),
        (["train", "--data", text, "--out", new, *SMALL, "--seed", 2**64], f"seed is {2**64}"),
        (["generate", tmp_path / "none", "--count", "-1"], "count is -1"),
        (["generate", tmp_path / "none", "--save", tmp_path / "used"], "a folder; expected the file"),
        (["convert", tmp_path / "used", new, "--to", "foo"], "to is 'foo'; expected 'recurra' or 'transformers'"),
        (["explain", "lstm", "--width", "0"], "width is 0"),
        (["explain", "lstm", "--batch", "0"], "batch is 0"),
        (["explain", "lstm", "--time", "0"], "time is 0"),
        (["explain", "lstm", "--batch", 2**30, "--time", 2**30], "x 64; expected below 2**60 numbers"),
        (["explain", "lstm", "--width", 10**7], "width is 10000000; the weights of lstm would need 2980232"),
        (["explain", "lstm", "--width", 2**31 - 1], "LSTM would hold more numbers than a tensor can"),
        (["layers", "--width", "0"], "width is 0"),
        (["layers", "--family", "gatted"], "family is 'gatted'; expected 'gated' or"),
    ]
    for args, words in cases:
        result = run(*args)
        assert result.returncode == 2, (args, result.stderr)
        assert words in result.stderr, (args, result.stderr)
        assert "Traceback" not in result.stderr, args
        assert len(result.stderr.splitlines()) <= 2, args
    assert (tmp_path / "used/file").read_text() == "precious"
    assert (tmp_path / "plain").read_text() == "a file"


@pytest.mark.parametrize("name", ["min-gru", "local-attention"])
def test_explain_of_more_time_than_memory_holds(name):
    result = run("explain", name, "--time", 2**31 - 1, "--width", 8)
    assert result.returncode == 0, result.stderr
    assert f"On [8, {2**31 - 1}, 8] auto picks" in result.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path):
    path = tmp_path / "secret"
    path.write_text("x")
    path.chmod(0)
    result = run("train", "--data", path, "--out", tmp_path / "run")
    assert result.returncode == 2
    assert "cannot be read" in result.stderr


def test_layers_are_counted_without_memory_for_them():
    rows = {row["name"]: row for row in json.loads(run("layers", "--width", 10**6, "--json").stdout)}
    assert rows["lstm"]["parameters"] == 8 * 10**12 + 8 * 10**6
    assert rows["lstm"]["state_per_channel"] == 2


def test_layers_of_a_width_that_some_cannot_have():
    rows = {row["name"]: row for row in json.loads(run("layers", "--width", 9, "--json").stdout)}
    assert list(rows) == list(recurra.layers())
    assert rows["lstm"]["parameters"] > 0
    assert "heads is 4" in rows["retnet"]["refuses"]
    assert "retnet" in run("layers", "--width", 9).stdout


INTERRUPTED = """
import os, signal
from recurra.cli.main import main
from recurra.training import checkpoint

def saved(*arguments, save=checkpoint.save):
    save(*arguments)
    checkpoint.save = save
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where whoever runs the tests ignores it
checkpoint.save = saved
main()
"""


def test_interrupted_it_tells_how_to_go_on(tmp_path, text):
    """By the signal of Ctrl-C, which comes when the first checkpoint lies there."""
    command = ["train", "--data", text, "--out", tmp_path / "run", "--steps", 50, "--checkpoint-every", 1, *SMALL]
    result = subprocess.run([sys.executable, "-c", INTERRUPTED, *map(str, command)], capture_output=True, text=True)
    assert result.returncode == 130
    assert "--resume" in result.stderr
