"""Layers of one's own have names: in patterns, in saved models, on the command line, and from installed packages."""

import json
import os
import subprocess
import sys

import pytest
import torch

import recurra
from recurra import InputError, Lane, Recurrence, registry
from recurra.cli import own
from recurra.models.files import save
from recurra.tasks.regressor import Regressor
from recurra.training.run_folder import begun

LEAKY = '''
import torch
from recurra import Lane, Recurrence

class Leaky(Recurrence):
    """h_t = 0.9 h_{t-1} + tanh(x_t)."""
    lane = Lane.CHANNEL

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        h = 0.9 * h + torch.tanh(x)
        return h, h
'''


class Fading(Recurrence):
    lane = Lane.CHANNEL

    def __init__(self, width, rate=0.9):
        super().__init__(width)
        self.rate = rate

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        h = self.rate * h + x
        return h, h


@pytest.fixture
def names(monkeypatch):
    """What is registered in a test is gone after it."""
    monkeypatch.setattr(registry, "OWN", {})
    monkeypatch.setattr(registry, "ORIGINS", {})
    return registry.OWN


class Clocked(Fading):
    """Keeps rates beside its state_dict: in a buffer that is not saved, and in a list."""

    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("rates", torch.linspace(0, 1, width), persistent=False)
        self.scales = [torch.linspace(1, 2, width)]

    def inputs(self, x):
        return {"x": x * self.scales[0], "rate": recurra.constant(self.rates)}

    def step(self, h, x, rate):
        h = rate * h + x
        return h, h


@pytest.mark.usefixtures("names")
def test_what_a_layer_keeps_beside_its_weights_is_there_when_it_is_loaded(tmp_path):
    recurra.register("clocked", Clocked)
    model, tokens = recurra.LanguageModel(64, 8, "clocked+min-gru").eval(), torch.randint(64, (2, 7))
    save(model, tmp_path)
    before = torch.get_rng_state()
    loaded = recurra.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(loaded(tokens)[0], model(tokens)[0])


def test_a_registered_name_goes_where_names_go(names, tmp_path):
    assert recurra.register("fading", Fading) is Fading
    assert recurra.layers()["fading"] is Fading
    assert list(recurra.layers(family="own")) == ["fading"]
    assert recurra.about("Fading").lane == "channel"
    assert recurra.about("fading").structure.affine
    assert recurra.layer("fading", 4, rate=0.5).rate == 0.5
    model = recurra.LanguageModel(64, 8, "fading*2+min-gru", layers={"fading": {"rate": 0.25}})
    assert [block.recurrence.rate for block in list(model.blocks)[:2]] == [0.25, 0.25]
    save(model, tmp_path)
    tokens = torch.randint(64, (2, 7))
    assert torch.equal(recurra.load(tmp_path)(tokens)[0], model.eval()(tokens)[0])
    names.clear()
    with pytest.raises(InputError, match=f"layer 'fading' is not known here.*--import '{Fading.__module__}'"):
        recurra.load(tmp_path)


def test_a_class_is_built_in_depth_and_in_both_directions():
    x = torch.randn(2, 5, 4)
    stack = recurra.layer(Fading, 4, num_layers=2, bidirectional=True, rate=0.5)
    y, _ = stack(x)
    assert y.shape == (2, 5, 16)
    ahead, back = (x.clone(), x.flip(1))
    for t in range(1, 5):
        ahead[:, t] += 0.5 * ahead[:, t - 1]
        back[:, t] += 0.5 * back[:, t - 1]
    torch.testing.assert_close(
        recurra.layer(Fading, 4, bidirectional=True, rate=0.5)(x)[0], torch.cat([ahead, back.flip(1)], -1)
    )
    with pytest.raises(InputError, match=r"layer 'Fading' has no option 'hidden'.*rate=0.9"):
        recurra.layer(Fading, 4, hidden=3)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("a+b", Fading, "name is 'a\\+b'; expected letters, digits, hyphens and underscores"),
        ("", Fading, "name is ''; expected letters"),
        ("-x", Fading, "name is '-x'; expected letters"),
        (3, Fading, "name is 3; expected letters"),
        ("min_gru", Fading, "name 'min_gru' is taken by 'min-gru' of the library"),
        ("mine", torch.nn.GRU, "kind is <class 'torch.nn.modules.rnn.GRU'>; expected a class derived from"),
        ("mine", Fading(3), "kind is .*; expected a class derived from"),
        ("Taken", type("Other", (Fading,), {}), "name 'Taken' is taken by .*:Fading"),
    ],
)
def test_what_cannot_be_registered(names, name, kind, said):
    recurra.register("taken", Fading)
    with pytest.raises(InputError, match=said):
        recurra.register(name, kind)
    assert names == {"taken": Fading}


def test_a_class_defined_anew_takes_its_own_place(names):
    again = type("Fading", (Fading,), {"__module__": Fading.__module__})
    recurra.register("my-cell", Fading)
    recurra.register("my_cell", again)
    assert names == {"my_cell": again}


@pytest.mark.usefixtures("names")
def test_a_class_named_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "leaky_by_module.py").write_text(LEAKY)
    monkeypatch.syspath_prepend(tmp_path)
    model = recurra.LanguageModel(64, 8, "leaky_by_module:Leaky*2+gru")
    assert type(model.blocks[0].recurrence).__name__ == "Leaky"
    for name in ("leaky_by_module:Nothing", "no_such_module:Leaky", "leaky_by_module:torch"):
        with pytest.raises(InputError, match=r"cannot be imported|expected a class derived from"):
            recurra.LanguageModel(64, 8, name)


@pytest.mark.usefixtures("names")
def test_a_file_imports_no_code(tmp_path, monkeypatch):
    """Of a model, of a run, or as transformers has it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hostile.py").write_text("raise SystemExit('this code was run')")
    folder = tmp_path / "model"
    save(recurra.LanguageModel(64, 8, "min-gru"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["model"]["pattern"] = "hostile:Cell"
    config["training"] = {"pattern": "hostile:Cell"}
    config["own_layers"] = {"hostile:Cell": "hostile.py"}
    (folder / "config.json").write_text(json.dumps(config))
    for read in (recurra.load, begun):
        with pytest.raises(InputError, match=r"layer 'hostile:Cell' is not known here.*--import 'hostile.py'"):
            read(folder)
    with pytest.raises(InputError, match=r"'hostile:Cell' is not known here.*--import FILE"):
        recurra.LanguageModel.from_config(config["model"])


def test_an_estimator_remembers_names_and_imports_no_code(names, tmp_path):
    recurra.register("fading", Fading)
    fitted = Regressor("fading", width=4, steps=1).fit(torch.randn(6, 2, 5).numpy(), torch.randn(6).numpy())
    fitted.save(tmp_path)
    x = torch.randn(3, 2, 5).numpy()
    assert (Regressor.load(tmp_path).predict(x) == fitted.predict(x)).all()
    names.clear()
    with pytest.raises(InputError, match=f"layer 'fading' is not known here.*--import '{Fading.__module__}'"):
        Regressor.load(tmp_path)
    path = next(tmp_path.glob("*.json"))
    path.write_text(path.read_text().replace('"fading"', f'"{Fading.__module__}:Fading"'))
    with pytest.raises(InputError, match=f"layer '{Fading.__module__}:Fading' is not known here"):
        Regressor.load(tmp_path)
    assert not names


@pytest.mark.usefixtures("names")
def test_what_a_package_offers_is_imported_when_code_names_it(tmp_path):
    (tmp_path / "leaky_package.py").write_text(LEAKY)
    info = tmp_path / "leaky_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recurra.layers]\nleaky = leaky_package:Leaky\nbroken = leaky_package:No\n")
    program = """
import sys, recurra
names = recurra.layers()
assert list(names)[-2:] == ["leaky", "broken"], list(names)
assert "torch" not in sys.modules
assert recurra.about("leaky").family == "own"
config = {"pattern": "leaky"}
try: recurra.LanguageModel.from_config(config)
except recurra.InputError as error: assert "--import 'leaky'" in str(error), error
else: raise AssertionError
assert "leaky_package" not in sys.modules
try: names["broken"]
except recurra.InputError as error: assert "leaky_package:No cannot be imported" in str(error), error
else: raise AssertionError
assert names["leaky"].__module__ == "leaky_package"
recurra.LanguageModel.from_config(config)
"""
    run_python("-c", program, also=tmp_path)


def run_python(*args, also=None, **options):
    path = os.pathsep.join(map(str, filter(None, [also, *sys.path])))
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        **options,
    )
    assert done.returncode in (0, 2), done.stderr
    return done


def recurra_does(*args, **options):
    return run_python("-m", "recurra.cli.main", *args, **options)


def test_on_the_command_line(tmp_path):
    file = tmp_path / "my_cells.py"
    file.write_text(LEAKY + "\nimport recurra\nrecurra.register('leaky', Leaky)\nclass Second(Leaky): pass\n")
    text = tmp_path / "text"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    small = ["--width", 8, "--mlp", 8, "--batch", 4, "--window", 16, "--steps", 2, "--sample", 0]
    pattern = ["--pattern", "leaky+my_cells:Second"]
    out = tmp_path / "run"
    done = recurra_does("train", "--import", file, "--data", text, "--out", out, *small, *pattern)
    assert done.returncode == 0, done.stderr
    for verb in (["generate", out, "--count", 2], ["train", "--out", out, "--resume"]):
        done = recurra_does(*verb)
        assert done.returncode == 2
        assert f"layer 'leaky' is not known here, and a file may not import it: give --import '{file}'" in done.stderr
        done = recurra_does(*verb, "--import", file)
        assert done.returncode == 0, done.stderr
    rows = json.loads(recurra_does("layers", "--import", file, "--family", "own", "--json").stdout)
    assert [row["name"] for row in rows] == ["leaky", "my_cells:Second"]
    explained = recurra_does("explain", "my_cells:Leaky", cwd=tmp_path)
    assert "affine in the state" in explained.stdout, explained.stderr


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("missing.py", "there is no such file"),
        ("torch.py", "'torch' cannot be the name of another module: rename the file"),
        ("wrong.py", "it ended in ZeroDivisionError: division by zero, at {folder}/wrong.py:2"),
        ("no_such_module", "it ended in ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_imported(tmp_path, what, said):
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "wrong.py").write_text("x = 1\nx / 0\n")
    before = list(sys.path)
    try:
        with pytest.raises(InputError) as error:
            own.take([str(tmp_path / what) if what.endswith(".py") else what])
    finally:
        sys.path[:] = before
    assert said.format(folder=tmp_path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_version_and_public_names():
    assert recurra_does("--version").stdout.strip() == recurra.__version__
    assert set(recurra.__all__) <= set(dir(recurra))
