"""The house rules that a test can hold: which way imports point, sizes, docstrings, what is imported."""

import ast
import json
import subprocess
import sys
from dataclasses import astuple
from graphlib import TopologicalSorter
from importlib import import_module
from inspect import isabstract
from pathlib import Path

import pytest

import recurra
from recurra.contract import Layer

ROOT = Path(recurra.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {file: ast.parse(file.read_text()) for file in FILES}

ALLOWED = {
    "errors": set(),
    "files": set(),
    "problem": set(),
    "pointwise": set(),
    "compiler": {"compiler", "errors", "files", "problem"},
    "engines": {"options", "engines", "compiler", "errors", "files", "problem"},
    "sealed": {"errors", "files", "options"},
    "state": {"options", "errors", "problem", "sealed"},
    "windows": {"engines", "errors", "problem"},
    "check": {"options", "errors", "problem", "state", "contract", "recurrence"},
    "beside": {"check", "errors", "options"},
    "packed": {"errors"},
    "contract": {"beside", "options", "check", "errors", "packed", "problem", "state"},
    "recurrence": {"beside", "check", "contract", "engines", "errors", "problem", "state", "windows"},
    "attention": {
        "nn.linear",
        "attention",
        "check",
        "contract",
        "engines",
        "errors",
        "pointwise",
        "options",
        "problem",
        "state",
        "windows",
    },
    "options": {"errors"},
    "recurrences": {"recurrences", "recurrence", "problem", "pointwise", "windows", "nn.linear", "errors", "options"},
    "nn.linear": {"engines"},
    "catalogue": set(),
    "facts": {"contract"},
    "registry": {"facts", "catalogue", "options", "contract", "errors", "models"},
}
"""Part of the package -> parts it may import; parts not named here are on top and may import everything."""


ALONE = {"nn.linear"}
"""Files that are a part of their own, below those around them."""


def named(pieces):
    """The part that a file or a name in it belongs to, from the pieces of its name."""
    own = ".".join(pieces[:2])
    return own if own in ALONE else pieces[0]


def part(file):
    return named(file.relative_to(ROOT).with_suffix("").parts)


def imported_parts(tree):
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            pieces = name.split(".")
            if pieces[0] == "recurra" and len(pieces) > 1:
                yield named(pieces[1:])


ROOMS = ["frontend", "planning", "codegen", "targets"]
"""Of the compiler, from the bottom up."""


def imported_files(tree):
    """Every file of ours that a file imports, inside functions and for types alike."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


MODULES = {
    ".".join(("recurra", *f.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): f for f in FILES
}


def test_no_circle_of_imports():
    order = TopologicalSorter({name: set(imported_files(TREES[file])) & set(MODULES) for name, file in MODULES.items()})
    order.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("file", sorted((ROOT / "compiler").rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_rooms_of_the_compiler(file):
    room = file.parent.name
    for name in imported_files(TREES[file]):
        if name.startswith("recurra.compiler.") and room in ROOMS:
            assert ROOMS.index(name.split(".")[2]) <= ROOMS.index(room), name


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_one_way(file):
    if part(file) in ALLOWED:
        assert set(imported_parts(TREES[file])) <= ALLOWED[part(file)]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_sizes_and_docstrings(file):
    assert len(file.read_text().splitlines()) <= 400
    assert file.stat().st_size == 0 or ast.get_docstring(TREES[file])
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            lines = node.end_lineno - node.lineno + 1
            assert isinstance(node, ast.ClassDef) or lines <= 75, f"{node.name} is {lines} lines long"
    for node in TREES[file].body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("room", ["recurrences", "attention", "models", "tasks"])
def test_linear_maps_take_the_fastest_product(room):
    plain = {"nn.Linear", "torch.nn.Linear", "nn.functional.linear", "torch.nn.functional.linear"}
    calls = {
        (str(file.relative_to(ROOT)), ast.unparse(node.func))
        for file, tree in TREES.items()
        if part(file) == room
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    assert not {call for call in calls if call[1] in plain}, "recurra.nn.linear has Linear and linear"


def test_one_file_imports_transformers():
    """It is optional: all else works without it."""
    importing = [
        str(file.relative_to(ROOT))
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None)])
        if str(name).split(".")[0] == "transformers"
    ]
    assert set(importing) == {"interop/transformers.py"}


def test_the_registry_is_the_folders():
    found = {}
    for file in [*(ROOT / "recurrences").glob("*.py"), *(ROOT / "attention").glob("*.py")]:
        module = import_module(f"recurra.{file.parent.name}.{file.stem}")
        for value in vars(module).values():
            own = isinstance(value, type) and issubclass(value, Layer) and value.__module__ == module.__name__
            if own and not isabstract(value):
                found[value.__name__] = value
    registered = recurra.layers()
    assert {kind.__name__ for kind in registered.values()} == {n for n, kind in found.items() if "lane" in vars(kind)}
    assert all(kind.paper is not None for kind in registered.values())


@pytest.mark.parametrize("name", recurra.layers())
def test_what_is_read_off_the_source_is_what_the_class_says(name):
    kind, about = recurra.layers()[name], recurra.about(name)
    assert (about.title, about.authors, about.year, about.arxiv) == astuple(kind.paper)
    assert about.lane == kind.lane
    assert about.load() is kind


def imported(code, before=""):
    """Names of the modules that Python has imported after `code`, without those after `before`."""
    program = (
        f"import sys, json\n{before}\nhad = set(sys.modules)\n{code}\nprint(json.dumps(list(set(sys.modules) - had)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return set(json.loads(run.stdout.splitlines()[-1]))


def foreign(modules):
    """Packages that are not Python's own."""
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


def test_importing_recurra_imports_nothing_else():
    assert foreign(imported("import recurra")) == {"recurra"}


def test_listing_layers_imports_none_of_them():
    code = "import recurra; assert all(recurra.about(name).year for name in recurra.layers(search='e'))"
    modules = imported(code)
    assert foreign(modules) == {"recurra"}
    assert not [name for name in modules if name.startswith(("recurra.recurrences", "recurra.attention"))]


def test_one_layer_imports_its_own_file_and_compiles_nothing():
    code = (
        "import recurra; recurra.layer('gru', 8)\nfrom recurra.compiler.targets import cache\nassert cache.built() == 0"
    )
    modules = imported(code, before="import torch")
    assert foreign(modules) <= {"recurra", "llvmlite"}
    own = {name for name in modules if name.startswith("recurra.recurrences.")}
    assert own == {"recurra.recurrences.gru", "recurra.recurrences.gated"}
    rooms = {name.split(".")[1] for name in modules if name.startswith("recurra.")}
    assert not rooms & {"models", "training", "tasks", "data", "streaming", "testing", "cli", "attention"}


def test_help_imports_only_what_prints_it():
    code = "from recurra.cli.main import main\nsys.argv = ['recurra', '--help']\ntry: main()\nexcept SystemExit: pass"
    modules = imported(code)
    assert not foreign(modules) & {"torch", "numpy", "llvmlite", "matplotlib", "safetensors", "transformers"}
    own = {name.split(".")[1] for name in modules if name.startswith("recurra.")}
    assert own == {"cli", "errors", "options", "interop"}
