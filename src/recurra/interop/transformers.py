"""Our language models as models of transformers: `AutoModelForCausalLM`, `generate`, and what builds on them.

Importing this registers them; `hook.py` does so when transformers are imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
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
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import logging

from recurra import check, options
from recurra.errors import InputError
from recurra.interop.rows import Rows
from recurra.models.files import KIND
from recurra.models.language_model import LanguageModel
from recurra.state import State

logger = logging.get_logger(__name__)

CACHE = next(field.name for field in fields(CausalLMOutputWithPast) if field.name in ("cache", "past_key_values"))
"""What transformers call what is carried from call to call: `cache` since 5.24, `past_key_values` before."""

PACKED = ("seq_idx", "cu_seq_lens_q", "cu_seq_lens_k")
"""Other ways in which transformers say where packed sequences begin."""

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

    is_compileable = is_croppable = False
    is_linear = (False,)  # `generate` is given the whole text with a cache, and cuts off what was read

    def __init__(self, state: State, length: int):
        self.state, self.length = state, length

    def get_seq_length(self, layer: int = 0) -> int:  # noqa: ARG002
        """Columns seen, padding included. The state does not grow with them."""
        return self.length

    def reorder_cache(self, rows: Tensor) -> None:
        """Row i goes on from what was row `rows[i]`: beam search."""
        self.state = State({name: value.index_select(0, rows.to(value.device)) for name, value in self.state.items()})


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
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast | tuple:
        """Scores of the next token after each.

        Args:
            input_ids: [B, T] int64, those after what the cache has seen.
            attention_mask: [B, T], or longer by what came before: 0 marks padding, wherever it is; it is skipped, and
                the scores and hidden states there are zero.
            cache: what an earlier call returned; transformers before 5.24 call it `past_key_values`.
            labels: [B, T], the input again; -100 is not scored.
            inputs_embeds: not supported.
            position_ids: [B, T] or [1, T], where sequences were packed into rows: one begins wherever a position is not
                larger than that before it. Else they count on, and nothing follows from them.
            output_hidden_states: whether to return those of `LanguageModel.with_hidden_states`.
            output_attentions: ignored, with a warning: what attends here keeps no weights.
            others: what the loss takes besides, such as `num_items_in_batch`; all else is ignored, but other ways of
                saying what was packed have to come with `position_ids`.

        Raises:
            InputError: there are no `input_ids`, or an argument does not fit.
        """
        cache = _only(past_key_values, cache)
        if position_ids is None and (packed := [name for name in PACKED if others.get(name) is not None]):
            raise InputError(f"{packed[0]} was given without position_ids, which say here where packed sequences begin")
        input_ids = _checked(input_ids, attention_mask, position_ids, cache, inputs_embeds)
        if self.config.output_attentions if output_attentions is None else output_attentions:
            logger.warning_once("output_attentions is ignored: models of recurra keep no attention weights")
        keep_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        keep_cache = self.config.use_cache if use_cache is None else use_cache
        as_dict = self.config.return_dict if return_dict is None else return_dict
        rows, before = Rows(input_ids, attention_mask, position_ids), None if cache is None else cache.state
        call = self.model.with_hidden_states if keep_hidden else self.model
        logits, *hidden, state = call(rows.tokens, before, resets=rows.resets, lengths=rows.lengths)
        logits, flows = rows.back(logits), tuple(rows.back(flow) for flow in hidden[0]) if hidden else None
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **others)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        length = input_ids.shape[1] + (0 if cache is None else cache.length)
        carried = {CACHE: Cache(state, length)} if keep_cache else {}
        output = CausalLMOutputWithPast(loss=loss, logits=logits[:, kept], hidden_states=flows, **carried)
        return output if as_dict else output.to_tuple()


class RecurraModel(PreTrainedModel):
    """What `AutoModel` is told to make: it refuses, and says what to ask for instead."""

    config_class = RecurraConfig

    def __init__(self, config: RecurraConfig):  # noqa: ARG002
        raise InputError("AutoModel is a model without a head, which recurra has none of: use AutoModelForCausalLM")


def _only(old: Any, new: Any) -> Any:
    """What was given as `past_key_values` or as `cache`; raises InputError if that was both."""
    if old is not None and new is not None:
        raise InputError("past_key_values and cache were given; expected one of the two names of what is carried on")
    return old if new is None else new


def _checked(tokens: Any, mask: Any, positions: Any, cache: Any, embedded: Any) -> Tensor:
    """The tokens that `forward` was given; raises InputError if there are none, or the rest does not fit them."""
    if embedded is not None or not isinstance(tokens, Tensor) or tokens.dim() != 2:
        came = "inputs_embeds was given" if embedded is not None else f"input_ids is {check.describe(tokens)}"
        raise InputError(f"{came}; expected input_ids [B, T] int64, the only input that models of recurra have")
    if cache is not None and not isinstance(cache, Cache):
        raise InputError(
            f"{CACHE} is {check.describe(cache)}; expected what an earlier call of this model returned, or None"
        )
    rows, time = tokens.shape
    fits = isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[0] == rows and mask.shape[1] >= time
    if mask is not None and not fits:
        raise InputError(f"attention_mask is {check.describe(mask)}; expected [{rows}, {time}], or more columns")
    fits = isinstance(positions, Tensor) and positions.shape in ((rows, time), (1, time))
    fits = fits and positions.dtype in (torch.int32, torch.int64)
    if positions is not None and not fits:
        raise InputError(f"position_ids is {check.describe(positions)}; expected [{rows}, {time}] int64")
    return tokens


AutoConfig.register(KIND["model_type"], RecurraConfig, exist_ok=True)
AutoModel.register(RecurraConfig, RecurraModel, exist_ok=True)
AutoModelForCausalLM.register(RecurraConfig, RecurraForCausalLM, exist_ok=True)
AutoTokenizer.register(RecurraConfig, fast_tokenizer_class=RecurraTokenizer, exist_ok=True)
