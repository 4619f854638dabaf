"""A model as a folder: what was saved comes back, and what could not come back is not saved."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

import recurra
from recurra import LanguageModel
from recurra.models import files, outline

IDS = torch.randint(0, 16, (2, 5))


def tiny(pattern="lstm", **options):
    return LanguageModel(16, 8, pattern, mlp=0, **options).eval()


def same_tensors(one, other):
    one, other = one.state_dict(), other.state_dict()
    same = one.keys() == other.keys() and all(one[name].dtype == other[name].dtype for name in one)
    return same and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_every_layer_comes_back_with_all_its_tensors(tmp_path, num_layers):
    """Models are read into an outline without memory: nothing of it may be left."""
    for name in recurra.layers():
        model = tiny(name, layers={name: {"num_layers": num_layers}})
        files.save(model, tmp_path / name)
        again = recurra.load(tmp_path / name)
        assert same_tensors(model, again), name
        assert not [n for part in again.modules() for n, value in vars(part).items() if holds_no_value(value)], name
        assert not any(value.is_meta for value in [*again.parameters(), *again.buffers()]), name


def holds_no_value(value):
    return isinstance(value, torch.Tensor) and value.is_meta


@pytest.mark.parametrize(
    ("pattern", "layers"), [("hgrn", {"hgrn": {"rotate": False}}), ("lmu+s5", {}), ("rg-lru+local-attention", {})]
)
def test_a_model_that_came_back_runs(tmp_path, pattern, layers):
    model = tiny(pattern, layers=layers)
    files.save(model, tmp_path)
    assert torch.equal(recurra.load(tmp_path)(IDS)[0], model(IDS)[0])


@pytest.mark.parametrize("dtype", outline.DTYPES)
def test_types_are_kept_one_by_one(tmp_path, dtype):
    model = tiny("mamba").to(dtype)
    model.blocks[0].recurrence.A_log.data = model.blocks[0].recurrence.A_log.data.float()
    files.save(model, tmp_path)
    assert same_tensors(model, recurra.load(tmp_path))


def tied_head():
    model = tiny()
    model.head.weight = model.embedding.weight
    return model


def shared_blocks():
    model = tiny("lstm*2")
    model.blocks[1] = model.blocks[0]
    return model


def views_of_one_vector():
    model = tiny()
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector, model.parameters())
    return model


@pytest.mark.parametrize(("make", "fewer"), [(tied_head, True), (shared_blocks, True), (views_of_one_vector, False)])
def test_parameters_that_are_one_come_back_as_one(tmp_path, make, fewer):
    model = make()
    files.save(model, tmp_path)
    again = recurra.load(tmp_path)
    assert same_tensors(model, again)
    assert torch.equal(again(IDS)[0], model(IDS)[0])
    assert len(list(again.parameters())) == len(list(model.parameters()))
    assert (len(list(again.parameters())) < len(again.state_dict())) == fewer
    for each in (model, again):  # and they learn as one
        each(IDS)[0].square().sum().backward()
        torch.optim.SGD(each.parameters(), 0.1).step()
    assert torch.equal(again(IDS)[0], model(IDS)[0])


def parametrized():
    model = tiny()
    nn.utils.parametrizations.weight_norm(model.head)
    return model


def pruned():
    model = tiny()
    prune.l1_unstructured(model.head, "weight", 0.5)
    return model


def replaced():
    model = tiny()
    model.blocks[0].recurrence = recurra.layer("gru", 8)
    return model


def widened():
    model = tiny()
    model.head = nn.Linear(8, 17, bias=False)
    return model


def in_integers():
    model = tiny()
    model.head.weight = nn.Parameter(model.head.weight.to(torch.int8), requires_grad=False)
    return model


@pytest.mark.parametrize("make", [parametrized, pruned, replaced, widened, in_integers])
def test_what_could_not_be_read_is_not_written(tmp_path, make):
    with pytest.raises(recurra.InputError, match=r"model is not what its config describes: .*before saving"):
        files.save(make(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def without_facts(folder):
    """As others write it, and as earlier versions did."""
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"format": "pt"})


def test_what_is_not_what_was_written_is_refused(tmp_path):
    model, other = tiny(), tiny(design={"eps": 1e-5})
    files.save(model, tmp_path / "a")
    files.save(other, tmp_path / "b")
    weights = tmp_path / "a/model.safetensors"
    kept = weights.read_bytes()
    flipped = bytearray(kept)
    flipped[-1] ^= 1
    weights.write_bytes(flipped)
    with pytest.raises(recurra.InputError, match="its content is not what was written"):
        recurra.load(tmp_path / "a")
    weights.write_bytes(kept)
    os.replace(tmp_path / "b/config.json", tmp_path / "a/config.json")
    with pytest.raises(recurra.InputError, match=r"was written with: eps was 1e-06, not 1e-05"):
        recurra.load(tmp_path / "a")
    without_facts(tmp_path / "a")
    assert recurra.load(tmp_path / "a").config == other.config


def test_links_lead_nowhere_but_to_a_hubs_blobs(tmp_path):
    """A folder from elsewhere must not have a file of its reader's taken for one of its own, and passed on."""
    hub = tmp_path / "models--some--model"
    folder, blobs = hub / "snapshots/1234", hub / "blobs"
    model = tiny()
    files.save(model, folder)
    blobs.mkdir()
    (tmp_path / "secret").write_text("{}")
    for name in ("config.json", "model.safetensors"):
        os.replace(folder / name, blobs / name)
        (folder / name).symlink_to(f"../../blobs/{name}")
    assert same_tensors(model, recurra.load(folder))
    for name in ("tokenizer_config.json", "config.json", "model.safetensors", "model.safetensors.index.json"):
        kept = os.readlink(folder / name) if (folder / name).is_symlink() else None
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(tmp_path / "secret")
        if name.endswith("index.json"):
            (folder / "model.safetensors").unlink()
        with pytest.raises(recurra.InputError, match="a link out of its folder"):
            recurra.load(folder)
        (folder / name).unlink()
        if kept:
            (folder / name).symlink_to(kept)
    os.rename(folder, tmp_path / "moved")
    (tmp_path / "moved/model.safetensors").symlink_to(blobs / "model.safetensors")
    with pytest.raises(recurra.InputError, match="a link out of its folder"):
        recurra.load(tmp_path / "moved")
