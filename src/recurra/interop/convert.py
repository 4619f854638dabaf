"""Folders of transformers to models of ours, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recurra import options
from recurra.errors import InputError, one_line
from recurra.files import write_atomically
from recurra.interop.bailing_hybrid import BAILING_HYBRID
from recurra.interop.bamba import BAMBA
from recurra.interop.checkpoint import WHOLE, read_tensors
from recurra.interop.falcon_h1 import FALCON_H1
from recurra.interop.family import Family
from recurra.interop.granite import GRANITE
from recurra.interop.jamba import JAMBA
from recurra.interop.kimi_linear import KIMI_LINEAR
from recurra.interop.lfm2 import LFM2, LFM2_MOE
from recurra.interop.lfm3 import LFM3
from recurra.interop.mamba import FALCON_MAMBA, MAMBA
from recurra.interop.mamba2 import MAMBA2
from recurra.interop.minimax import MINIMAX
from recurra.interop.nemotron_h import NEMOTRON_H
from recurra.interop.olmo_hybrid import OLMO_HYBRID
from recurra.interop.qwen3_next import QWEN3_5, QWEN3_5_MOE, QWEN3_NEXT
from recurra.interop.recurrent_gemma import RECURRENT_GEMMA
from recurra.interop.rules import to_ours, to_theirs
from recurra.interop.rwkv import RWKV
from recurra.interop.xlstm import XLSTM
from recurra.interop.zamba import ZAMBA, ZAMBA2
from recurra.models.language_model import LanguageModel
from recurra.models.origin import Origin
from recurra.models.outline import misfit, outline, tensors_of, tied, write_config

FAMILIES = {
    "mamba": MAMBA,
    "falcon_mamba": FALCON_MAMBA,
    "mamba2": MAMBA2,
    "recurrent_gemma": RECURRENT_GEMMA,
    "rwkv": RWKV,
    "xlstm": XLSTM,
    "bamba": BAMBA,
    "falcon_h1": FALCON_H1,
    "granitemoehybrid": GRANITE,
    "nemotron_h": NEMOTRON_H,
    "jamba": JAMBA,
    "qwen3_next": QWEN3_NEXT,
    "qwen3_5_text": QWEN3_5,
    "qwen3_5_moe_text": QWEN3_5_MOE,
    "olmo_hybrid": OLMO_HYBRID,
    "minimax": MINIMAX,
    "kimi_linear": KIMI_LINEAR,
    "lfm2": LFM2,
    "lfm2_moe": LFM2_MOE,
    "lfm3": LFM3,
    "bailing_hybrid": BAILING_HYBRID,
    "zamba": ZAMBA,
    "zamba2": ZAMBA2,
}
"""model_type in config.json -> how it is read."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that config.json names. Raises InputError for one that is not known."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(f"config.json has model_type = {options.shown(kind)}; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def from_transformers(folder: Path, config: Mapping[str, Any]) -> LanguageModel:
    """The model in a folder of transformers, in the dtype of its embedding and set to evaluate.

    Raises InputError if config.json or a tensor is not what the family has.
    """
    family, path = family_of(config), folder / "config.json"
    full = family.complete(config)
    try:
        arguments = family.model(full)
    except InputError:
        raise
    except Exception as error:  # of any kind: fields may hold anything
        raise InputError(f"{path} does not describe a model: {one_line(error)}") from error
    tensors, _ = read_tensors(folder)
    aliases = family.aliases(full)
    theirs = {aliases.get(name, name): tensor for name, tensor in tensors.items()}
    model = outline(arguments, path, len(theirs))
    ignored = tuple(family.ignored(full))
    theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(ignored)}
    held, asked = (sum(t.numel() for t in found.values()) for found in (theirs, model.state_dict()))
    if asked > 4 * held:
        raise InputError(
            f"the weights in {folder} do not fit config.json: they are {held} numbers, it asks for {asked}"
        )
    # Only now: there are as many rules as a model has tensors, and they name the rows of some.
    ours = to_ours(family.rules(full), theirs, model.state_dict())
    ours |= {name: ours[one] for name, one in tied(model).items()}
    if reason := misfit(model.state_dict(), ours):
        raise InputError(f"the weights in {folder} do not fit config.json: {reason}")
    model.load_state_dict(ours, assign=True)
    model.to(ours["embedding.weight"].dtype)
    model.origin = Origin.read(folder, dict(config))
    return model.eval()


def to_transformers(model: LanguageModel, folder: str | Path) -> None:
    """Write a model that was once read from a folder of transformers as such a folder again.

    Raises InputError if the model came from elsewhere.
    """
    from safetensors.torch import save as to_bytes

    tensors = tensors_of(model)
    config = None if model.origin is None else model.origin.config
    if model.origin is None or config is None:
        raise InputError(
            "the model was not read from a folder of transformers, none of whose models it is; "
            "after `import recurra`, transformers load the folder as it is"
        )
    family, folder = family_of(config), options.path("folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Without a digest: tools change such files, and copy what was said about them.
    theirs = to_theirs(family.rules(family.complete(config)), {n: t.detach().cpu() for n, t in tensors.items()})
    write_atomically(folder / WHOLE, to_bytes(theirs, {"format": "pt"}))
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    named = {name: dtype for name in ("dtype", "torch_dtype") if name in config}
    write_config(folder, {**config, **named})
    model.origin.write_files(folder)
