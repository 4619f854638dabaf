"""Tensors in a safetensors file, with a digest of all that is in it: what was written comes back, or an error.

A digest finds what a disk, a copy or an editor changed. It is no signature: whoever changes a file on purpose can write
another digest, so what is read is still looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from recurra.errors import InputError, one_line
from recurra.files import expect_file, write_atomically
from recurra.options import shown

OWN = "recurra."
"""Facts in a file whose names begin so are ours."""
DIGEST = OWN + "digest"


def write(path: Path, what: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write tensors and facts about them; the file appears whole or not at all. Tensors that are one memory are written
    one by one.

    Args:
        what: the tensors are in a message.

    Raises InputError, before anything is written, if a file has no place for one of them.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    plain = {}
    for name, tensor in tensors.items():
        try:
            plain[name] = tensor.detach().cpu().resolve_conj().clone(memory_format=torch.contiguous_format)
            if type(plain[name]) is not Tensor or (plain[name].numel() and not plain[name].data_ptr()):
                raise TypeError(type(tensor))
            save({name: torch.empty(0, dtype=tensor.dtype)})
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            kind = f"{str(tensor.dtype)[6:]} on {tensor.device}, {str(tensor.layout)[6:]}"
            raise InputError(
                f"{what}[{shown(name)}] is {kind}, {type(tensor).__name__}; a file holds plain dense tensors that have "
                "values, under names of str"
            ) from error
    write_atomically(path, _ordered(save(plain, {**facts, DIGEST: _digest(plain, facts)})))


def read(path: Path, fails: str, *, needed: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, on the CPU, and the facts about them.

    Args:
        fails: what a message says before its reason, such as that this file cannot be read.
        needed: whether a file without a digest is refused, rather than believed.

    Raises InputError if there is no such file, if it cannot be read, or if its content is not what was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        expect_file(path)
        with safe_open(path, framework="pt") as file:
            facts = dict(file.metadata() or {})
            # In memory of their own: the file may be changed by others while they are used.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise InputError(f"{fails}: {one_line(error)}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        raise InputError(f"{fails}: it is damaged or none of ours: {one_line(error)}") from error
    digest = facts.pop(DIGEST, None)
    if digest is None and needed:
        raise InputError(
            f"{fails}: it holds no digest of its content, so it is none of ours, or an early recurra 0.1 wrote it, "
            "which kept none; make it again"
        )
    if digest is not None and digest != _digest(tensors, facts):
        raise InputError(
            f"{fails}: it is damaged, its content is not what was written; use a copy that is whole, or make it again"
        )
    return tensors, facts


def _ordered(content: bytes) -> bytes:
    """The file with its facts in the order of their names: safetensors have them in any, another one each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that numbers lie at addresses that are multiples of 8
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[8 + size :]])


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """Of names, types, shapes, bytes and facts."""
    names = sorted(tensors)
    head = [sorted(facts.items()), [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in names]]
    total = hashlib.sha256(json.dumps(head).encode())
    for name in names:
        total.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
