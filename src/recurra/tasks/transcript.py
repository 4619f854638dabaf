"""A target that is written while its source comes, token by token."""

from __future__ import annotations

import torch

from recurra.data.sequences import Field
from recurra.errors import InputError
from recurra.options import shown
from recurra.tasks.prefix_beam import PrefixBeam
from recurra.tasks.transcription import Transcription


class Transcript:
    """One sequence that goes on, read by an encoder of one direction: what a `Translator` with a CTC head streams.

    Args:
        source, target: of the tokens.
        beam: beginnings that are kept.
    """

    def __init__(self, model: Transcription, source: Field, target: Field, beam: int):
        assert source.vocabulary is not None
        assert target.vocabulary is not None
        self._model, self._read, self._said = model, source.vocabulary, target.vocabulary
        self._beam = PrefixBeam(model.frames.head.blank, beam)
        self.state = model.encoder.initial_state(1)

    @property
    def written(self) -> list[str]:
        """The likeliest target of what has come: what follows may change its end, though seldom more."""
        return [str(self._said.names[token]) for token in self._beam.best]

    @torch.no_grad()
    def update(self, token: str) -> list[str]:
        """`written`, after one more token of the source; raises InputError if it is none."""
        if not isinstance(token, str):
            raise InputError(f"token is {shown(token)}; expected a text, one token of the source")
        raw, _, self.state = self._model(self._read.encode([token])[None], None, self.state)
        for log_p in raw[0].log_softmax(-1):
            self._beam.update(log_p)
        return self.written
