"""Our language models as models of transformers: `AutoModelForCausalLM`, `generate`, and what builds on them.

Importing this registers them; `hook.py` does so when transformers are imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import ModelOutput

from recurra import check, options
from recurra.errors import InputError
from recurra.models.files import KIND
from recurra.models.language_model import LanguageModel
from recurra.state import State

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


class RecurraConfig(PretrainedConfig):
    """A config.json of ours.

    Args:
        model: what `LanguageModel` is built from.
        origin: the config.json that the model had at first, if it was read from a folder of transformers; tokens that
            begin, end and pad are looked up there if not given.
    """

    model_type = KIND["model_type"]

    def __init__(self, model: Mapping[str, Any] | None = None, origin: Mapping[str, Any] | None = None, **options: Any):
        self.model = dict(model or LanguageModel().config)
        self.origin = origin
        self.vocab_size, self.hidden_size = self.model["vocabulary"], self.model["width"]
        options.setdefault("tie_word_embeddings", False)  # `LanguageModel` ties its own
        self.use_cache = options.pop("use_cache", True)
        tokens = {name: options.pop(name, (origin or {}).get(name)) for name in TOKENS}
        super().__init__(**options)
        for name, value in tokens.items():
            setattr(self, name, value)


class RecurraTokenizer(PreTrainedTokenizerFast):
    """Makes the tokenizer of a folder: what tokenizer.json says, or `byte_tokenizer` where there is none."""

    @classmethod
    def from_pretrained(cls, folder: Any, *args: Any, **options: Any) -> PreTrainedTokenizerFast:
        """A `PreTrainedTokenizerFast`. Byte 0, which text does not hold, begins, ends and pads text that is bytes."""
        if not Path(folder).is_dir() or (Path(folder) / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(folder, *args, **options)
        known = ("padding_side", "truncation_side", "model_max_length", "bos_token", "eos_token", "pad_token")
        settings = {name: "\0" for name in ("bos_token", "eos_token", "pad_token")}
        settings |= {name: options[name] for name in known if name in options}
        return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), **settings)


def byte_tokenizer() -> Any:
    """A `tokenizers.Tokenizer` with 256 tokens, the bytes of UTF-8 by value."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # ByteLevel writes bytes as printable characters: those of Latin-1 that print stand for themselves, the others
    # follow one another from 256 on.
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    vocabulary = {chr(byte if byte in printable else 256 + others.index(byte)): byte for byte in range(1, 256)}
    tokenizer = Tokenizer(models.BPE({"\0": 0, **vocabulary}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


class Cache:
    """What `generate` carries from call to call: the State, and how many columns of the input it has seen."""

    is_compileable = False

    def __init__(self, state: State, length: int):
        self.state, self.length = state, length

    def get_seq_length(self, layer: int = 0) -> int:  # noqa: ARG002
        """Columns seen, padding included. The state does not grow with them."""
        return self.length

    def reorder_cache(self, rows: Tensor) -> None:
        """Row i goes on from what was row `rows[i]`: beam search."""
        self.state = State({name: value.index_select(0, rows.to(value.device)) for name, value in self.state.items()})


@dataclass
class Output(ModelOutput):
    """What `RecurraForCausalLM` returns."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None


class RecurraForCausalLM(PreTrainedModel, GenerationMixin):
    """A `LanguageModel` as transformers have theirs; `model` is the `LanguageModel` itself."""

    config_class = RecurraConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _is_stateful = True

    def __init__(self, config: RecurraConfig):
        super().__init__(config)
        self.model = LanguageModel.from_config(config.model)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Weights begin as `LanguageModel` sets them."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def get_input_embeddings(self) -> nn.Module:
        """The embedding."""
        return self.model.embedding

    def get_output_embeddings(self) -> nn.Module | None:
        """The head, where it is not the embedding."""
        return None if self.model.design.tied else self.model.head

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another embedding in its place."""
        self.model.embedding = options.instance("value", value, nn.Embedding)

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Put another head in its place."""
        self.model.head = options.instance("value", value, nn.Linear)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Make room for other tokens in the embedding and the head, as transformers do; configurations follow.

        Raises InputError, before anything is changed, if a number is no size.
        """
        for name, value in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", pad_to_multiple_of)):
            options.count(name, 1 if value is None else value)
        before = self.config.vocab_size
        embedding = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        if not mean_resizing:
            nn.init.normal_(embedding.weight.data[before:], std=1 / self.model.scale)  # as `LanguageModel` begins
        tokens = len(embedding.weight)
        self.config.model["vocabulary"] = self.model.config["vocabulary"] = tokens
        if self.config.origin is not None:
            self.config.origin = {**self.config.origin, "vocab_size": tokens}
        return embedding

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        inputs_embeds: None = None,
        **others: Any,
    ) -> Output | tuple:
        """Scores of the next token after each.

        Args:
            input_ids: [B, T] int64, those after what `past_key_values` has seen.
            attention_mask: [B, T], or longer by what came before: 0 marks padding, wherever it is; it is skipped, and
                the scores there are zero.
            past_key_values: what an earlier call returned.
            labels: [B, T], the input again; -100 is not scored.
            inputs_embeds: not supported.
            others: what the loss takes besides, such as `num_items_in_batch`; all else is ignored.

        Raises:
            InputError: there are no `input_ids`, or an argument does not fit.
        """
        input_ids = _checked(input_ids, attention_mask, past_key_values, inputs_embeds)
        before = None if past_key_values is None else past_key_values.state
        logits, state = self._skip_padding(input_ids, attention_mask, before)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **others)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        length = input_ids.shape[1] + (past_key_values.length if past_key_values else 0)
        keep_cache = self.config.use_cache if use_cache is None else use_cache
        output = Output(loss=loss, logits=logits[:, kept], past_key_values=Cache(state, length) if keep_cache else None)
        return output.to_tuple() if return_dict is False else output

    def _skip_padding(self, tokens: Tensor, mask: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """Logits and the next state: the valid tokens of every row are moved to its start and the logits back."""
        if mask is not None:
            mask = mask[:, mask.shape[1] - tokens.shape[1] :].bool()
        if mask is None or mask.all():
            return self.model(tokens, state)
        order = torch.argsort(mask.int(), dim=1, descending=True, stable=True)
        logits, state = self.model(tokens.gather(1, order), state, lengths=mask.sum(1))
        back = torch.argsort(order, dim=1)[..., None].expand_as(logits)
        return logits.gather(1, back).masked_fill(~mask[..., None], 0), state

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """What `generate` calls `forward` with: only the tokens that have not been seen."""
        seen = 0 if past_key_values is None else past_key_values.length
        return {
            "input_ids": input_ids[:, seen:],
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "use_cache": options.get("use_cache", True),
            "logits_to_keep": options.get("logits_to_keep", 0),
        }


class RecurraModel(PreTrainedModel):
    """What `AutoModel` is told to make: it refuses, and says what to ask for instead."""

    config_class = RecurraConfig

    def __init__(self, config: RecurraConfig):  # noqa: ARG002
        raise InputError("AutoModel is a model without a head, which recurra has none of: use AutoModelForCausalLM")


def _checked(tokens: Any, mask: Any, cache: Any, embedded: Any) -> Tensor:
    """The tokens that `forward` was given; raises InputError if there are none, or the rest does not fit them."""
    if embedded is not None or not isinstance(tokens, Tensor) or tokens.dim() != 2:
        came = "inputs_embeds was given" if embedded is not None else f"input_ids is {check.describe(tokens)}"
        raise InputError(f"{came}; expected input_ids [B, T] int64, the only input that models of recurra have")
    if cache is not None and not isinstance(cache, Cache):
        raise InputError(
            f"past_key_values is {check.describe(cache)}; expected what an earlier call of this model returned, or None"
        )
    rows, time = tokens.shape
    fits = isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[0] == rows and mask.shape[1] >= time
    if mask is not None and not fits:
        raise InputError(f"attention_mask is {check.describe(mask)}; expected [{rows}, {time}], or more columns")
    return tokens


AutoConfig.register(KIND["model_type"], RecurraConfig, exist_ok=True)
AutoModel.register(RecurraConfig, RecurraModel, exist_ok=True)
AutoModelForCausalLM.register(RecurraConfig, RecurraForCausalLM, exist_ok=True)
AutoTokenizer.register(RecurraConfig, fast_tokenizer_class=RecurraTokenizer, exist_ok=True)
