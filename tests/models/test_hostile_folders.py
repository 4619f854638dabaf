"""Folders of models that were made to do harm: one short message each, at once, and no memory that they ask for."""

import json
import os
import random
import resource
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

import recurra
from recurra import LanguageModel, State
from recurra.interop.convert import FAMILIES
from recurra.models import files
from recurra.streaming.session import Session

MEMORY = 2**29
"""Bytes that reading a folder of a few kilobytes never takes, of those that are asked for."""

VALUES = [
    None, True, -1, 0, 1, 3, 1000, 10**6, 2**31 - 1, 2**40, 10**30, 0.5, -1e300, 1e300, float("inf"), float("nan"),
    "", "x", "lstm*1000", "9" * 3000, "é" * 50, [], ["lstm"], [[]] * 3, ["recurrent"] * 10**5, {}, {"a": {"b": [1]}},
    {"lstm": 3}, {"lstm": {"num_layers": 10**6}}, {"lstm": {"hidden": 2**31 - 1}}, {"rope_type": ["yarn"]},
]  # fmt: skip
"""What a field may hold that should hold something else."""


@pytest.fixture(autouse=True)
def bounded():
    """What hangs or takes memory fails."""

    def ring(*_):
        raise TimeoutError("it does not end")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(300)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MEMORY / 1024


def refused(folder, call=recurra.load):
    """Whether `call` refuses the folder, in one line; anything but that or a result is an error."""
    said = ""
    try:
        call(folder)
    except recurra.RecurraError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said.replace(str(folder), "")) < 400, said
    return bool(said)


def written(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def ours(tmp_path):
    """The config and the tensors of a model of ours."""
    files.save(LanguageModel(8, 8, "lstm", mlp=2), tmp_path / "ours")
    return json.loads((tmp_path / "ours/config.json").read_text()), load_file(tmp_path / "ours/model.safetensors")


def test_configs_of_ours_with_other_values(tmp_path, ours):
    config, tensors = ours
    for name in config["model"]:
        for value in VALUES:
            written(tmp_path / "a", config | {"model": config["model"] | {name: value}}, tensors)
            assert refused(tmp_path / "a") or value in (config["model"][name], None, 0.5, {}, 0, 1e-6), (name, value)
    for name in config["model"]["design"]:
        for value in VALUES:
            design = config["model"]["design"] | {name: value}
            written(tmp_path / "a", config | {"model": config["model"] | {"design": design}}, tensors)
            refused(tmp_path / "a")
    for name in ("model", "model_type", "origin"):
        for value in VALUES:
            written(tmp_path / "a", config | {name: value}, tensors)
            refused(tmp_path / "a")


@pytest.mark.parametrize("share", [0.15, pytest.param(1.0, marks=pytest.mark.slow)])
def test_configs_of_families_with_other_values(tmp_path, ours, share):
    _, tensors = ours
    tensors |= {f"more.{i}": torch.zeros(1) for i in range(50)}
    for kind, family in FAMILIES.items():
        fields = [*family.defaults, *family.only, "block_types", "rope_parameters"]
        for name in fields:
            for value in random.sample(VALUES, max(1, round(share * len(VALUES)))):
                config = {"model_type": kind, "num_hidden_layers": 2, "vocab_size": 9, name: value}
                written(tmp_path / "a", config, tensors)
                assert refused(tmp_path / "a"), (kind, name, value)


def test_layers_without_end(tmp_path, ours):
    config, tensors = ours
    for changes in (
        {"width": 9000},
        {"vocabulary": 2**31 - 1, "width": 2**31 - 1},
        {"pattern": "lstm*1000"},
        {"pattern": "lstm*1001"},
        {"pattern": "+".join(["lstm"] * 10**5)},
        {"layers": {"lstm": {"num_layers": 1000}}},
        {"layers": {"lstm": {"num_layers": 10**9}}},
        {"layers": {"lstm": {"hidden": 10**9}}},
        {"pattern": "titans", "layers": {"titans": {"depth": 10**9}}},
        {"pattern": "atlas", "layers": {"atlas": {"depth": 10**6, "features": 2**31 - 1}}},
        {"pattern": "lmu", "layers": {"lmu": {"memory": 30_000}}},
        {"pattern": "s5", "layers": {"s5": {"state_size": 20_000}}},
        {"pattern": "mamba", "layers": {"mamba": {"kernel": 10**9, "state_size": 10**9}}},
    ):
        written(tmp_path / "a", config | {"model": config["model"] | changes}, tensors)
        assert refused(tmp_path / "a"), changes
    for kind in FAMILIES:
        written(tmp_path / "a", {"model_type": kind, "num_hidden_layers": 10**9}, tensors)
        assert refused(tmp_path / "a"), kind


def test_texts_that_are_no_config(tmp_path, ours):
    _, tensors = ours
    written(tmp_path / "a", {}, tensors)
    for text in (
        b"", b"[]", b"null", b"\xff\xfe", b"{", b"[" * 10**5, b'{"a":' * 10**5, b'{"model": {}}', b'{"model": null}',
        b'{"model_type": ["mamba"]}', b'{"model_type": {"a": 1}}', b'{"model_type": "gpt2"}', b"9" * 10**5,
        b'{"model": ' + b"[" * 900 + b"]" * 900 + b"}", b'{"model": {"vocabulary": ' + b"9" * 5000 + b"}}",
    ):  # fmt: skip
        (tmp_path / "a/config.json").write_bytes(text)
        assert refused(tmp_path / "a"), text[:40]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"])
def test_what_is_no_file(tmp_path, ours, name):
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink(name, path)):
        folder = tmp_path / str(len(os.listdir(tmp_path)))
        written(folder, *ours)
        if name.endswith("index.json"):
            (folder / "model.safetensors").unlink()
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        assert refused(folder), make


def test_indices(tmp_path, ours):
    config, tensors = ours
    written(tmp_path / "a", config, tensors)
    save_file(tensors, tmp_path / "outside.safetensors")
    (tmp_path / "a/model.safetensors").unlink()
    names = [
        "../outside.safetensors", str(tmp_path / "outside.safetensors"), "a\0b", "", ".", "..", "/", "a/", "x" * 5000,
        "none.safetensors", "config.json", 3, None, ["a"], {"a": 1}, True, "\ud800",
    ]  # fmt: skip
    texts = [json.dumps({"weight_map": {"a": name}}) for name in names]
    texts += [json.dumps(value) for value in (None, 3, [], {}, {"weight_map": 3}, {"weight_map": []})]
    texts += ["", "{", "[" * 10**5, '{"weight_map":' * 10**5, "\x00"]
    for text in texts:
        (tmp_path / "a/model.safetensors.index.json").write_text(text)
        assert refused(tmp_path / "a"), text[:60]


def header(value, data=b"", length=None):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"embedding.weight": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


def test_weights_that_are_none(tmp_path, ours):
    written(tmp_path / "a", *ours)
    for content in (
        b"", b"PK\x03\x04" + bytes(100), b"\x80\x04}q\x00.", header({}, length=2**63), header({}, length=10**8),
        header(b"[" * 10**5), header(b"\xff" * 9), header({}), header({"__metadata__": {"recurra.digest": "0"}}),
        header(entry(), bytes(8)), header(entry(offsets=(0, 2**60))), header(entry(shape=(2**62, 2**62))),
        header(entry(shape=(-2,)), bytes(8)), header(entry(dtype="F33"), bytes(8)), header(entry(offsets=(8, 0))),
        header(entry(shape=(0,) * 500, offsets=(0, 0))), header({"__metadata__": 3}),
        header({"__metadata__": {"a": []}}),
        header({f"t{i}": entry(shape=(0,), offsets=(0, 0))["embedding.weight"] for i in range(20_000)}),
    ):  # fmt: skip
        (tmp_path / "a/model.safetensors").write_bytes(content)
        assert refused(tmp_path / "a"), content[:60]
        for read in (State.load, lambda path: Session.load(LanguageModel(8, 8, "lstm", mlp=2), path)):
            assert refused(tmp_path / "a", lambda folder, read=read: read(folder / "model.safetensors")), content[:60]


@pytest.mark.parametrize("tied", ["[]", "{", '{"a": "b"}', '{"head.weight": 3}', '{"head.weight": "norm.weight"}', "3"])
def test_parameters_that_cannot_be_one(tmp_path, ours, tied):
    config, tensors = ours
    written(tmp_path / "a", config, tensors)
    save_file(tensors, tmp_path / "a/model.safetensors", {files.TIED: tied})
    assert refused(tmp_path / "a") or tied == "[]"


TOKENIZERS = {
    "without its unknown token": {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"},
    },
    "of nothing": {},
    "of another kind": {"version": "1.0", "model": {"type": "Other"}},
    "with tokens that the model has not": {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": {"a": 10**6, "?": 10**6 + 1}, "unk_token": "?"},
    },
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers(tmp_path, ours, case):
    pytest.importorskip("tokenizers")
    from recurra.cli.generate import generate
    from recurra.training.evaluate import bits_per_byte

    written(tmp_path / "a", *ours)
    (tmp_path / "a/tokenizer.json").write_text(json.dumps(TOKENIZERS[case]))
    calls = [
        lambda folder: generate(folder, "the", 1, 0.0, None, 0, None, None),
        lambda folder: bits_per_byte(recurra.load(folder), b"the end of the text"),
    ]
    for call in calls:
        assert refused(tmp_path / "a", call)
