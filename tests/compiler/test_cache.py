"""The cache of kernels: machine code is run only where nobody but the user can have put it there."""

import os
import pwd
import stat
from pathlib import Path

import pytest
import torch

import recurra
from recurra.compiler.targets import cache, host
from recurra.engines import rates

X = torch.randn(2, 3, 8)


@pytest.fixture
def compiled(monkeypatch):
    """One entry for every kernel that is compiled rather than read."""
    calls, original = [], host.compile_object
    monkeypatch.setattr(host, "compile_object", lambda ir: calls.append(ir) or original(ir))
    cache._warn.cache_clear()
    return calls


def use(folder, monkeypatch, name="min-gru"):
    """What a new process computes, with its kernels in that folder."""
    monkeypatch.setenv("RECURRA_CACHE_DIR", str(folder))
    monkeypatch.setattr(cache, "_kernels", {})
    torch.manual_seed(0)
    with torch.no_grad():
        return recurra.layer(name, 8)(X)[0]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0, 0o077])
def test_the_folder_is_the_users_alone(tmp_path, monkeypatch, compiled, umask):
    before = os.umask(umask)
    try:
        y = use(tmp_path / "a/b", monkeypatch)
        assert compiled
        assert mode(tmp_path / "a/b") == 0o700
        assert {mode(path) for path in (tmp_path / "a/b").iterdir()} == {0o600}
        compiled.clear()
        assert torch.equal(use(tmp_path / "a/b", monkeypatch), y)
        assert not compiled
        monkeypatch.setenv("RECURRA_CACHE_DIR", str(tmp_path / "c"))
        rates.keep(rates.Rates())
        assert mode(tmp_path / "c") == 0o700
    finally:
        os.umask(before)
        rates.current.cache_clear()


def of_another_user(path):
    os.chown(path, 65534, 65534)


def for_the_group(path):
    path.chmod(0o660)


def for_all(path):
    path.chmod(0o602)


def a_link(path):
    os.rename(path, path.parent / "moved")
    path.symlink_to("moved")


def a_pipe(path):
    path.unlink()
    os.mkfifo(path, 0o600)


root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.mark.parametrize("change", [pytest.param(of_another_user, marks=root), for_the_group, for_all, a_link, a_pipe])
def test_files_that_others_can_have_written_are_not_run(tmp_path, monkeypatch, compiled, change):
    y = use(tmp_path, monkeypatch)
    kernels = list(tmp_path.glob("*.kernel"))
    for path in kernels:
        change(path)
    compiled.clear()
    assert torch.equal(use(tmp_path, monkeypatch), y)
    assert len(compiled) == len(kernels)
    if change is not a_pipe:  # which is left where it is
        compiled.clear()
        assert torch.equal(use(tmp_path, monkeypatch), y)
        assert not compiled


@pytest.mark.parametrize("change", [pytest.param(of_another_user, marks=root), lambda path: path.chmod(0o770),
                                    lambda path: path.chmod(0o1777)])  # fmt: skip
def test_folders_that_others_may_write_to_are_not_used(tmp_path, monkeypatch, compiled, change):
    folder = tmp_path / "shared"
    y = use(folder, monkeypatch)
    change(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for _ in range(2):
        compiled.clear()
        cache._warn.cache_clear()
        with pytest.warns(UserWarning, match="others may write to .*RECURRA_CACHE_DIR"):
            assert torch.equal(use(folder, monkeypatch), y)
        assert compiled
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_kernel_is_not_run_for_another(tmp_path, monkeypatch, compiled):
    expected = use(tmp_path / "a", monkeypatch), use(tmp_path / "b", monkeypatch, "lru")
    one, other = (sorted((tmp_path / name).glob("*.kernel")) for name in "ab")
    for path, wrong in zip(one, other, strict=False):
        path.write_bytes(wrong.read_bytes())
    compiled.clear()
    assert torch.equal(use(tmp_path / "a", monkeypatch), expected[0])
    assert compiled


def test_a_user_without_a_home(tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "RECURRA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert cache.folder() == tmp_path / f"recurra-{os.geteuid()}"
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache.folder() == Path("/home/somebody/.cache/recurra")


@pytest.mark.parametrize("text", ["", "{", "[" * 10**5, "{}", '{"call": "x"}', "null", "\xff"])
def test_rates_that_are_none_are_passed_over(tmp_path, monkeypatch, text):
    (tmp_path / "rates").write_text(text, encoding="latin-1")
    monkeypatch.setattr(rates, "_file", lambda: tmp_path / "rates")
    rates.current.cache_clear()
    assert rates.current() == rates.Rates()
    for wrong in (float("nan"), float("inf"), 0.0, -1.0, 10**400):
        (tmp_path / "rates").write_text(str(vars(rates.Rates()) | {"call": wrong}).replace("'", '"'))
        rates.current.cache_clear()
        assert rates.current() == rates.Rates()
    rates.current.cache_clear()
