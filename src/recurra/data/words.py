"""`Sequences` of words and letters: sentences with tags, texts, pairs of sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from recurra import options
from recurra.data.formats import parse_conllu
from recurra.data.sequences import Field, Sequences
from recurra.data.vocabulary import Vocabulary
from recurra.errors import InputError
from recurra.options import shown

Tokens = Sequence[str | None]


def from_tokens(
    words: Sequence[Sequence[str]],
    tags: Mapping[str, Sequence[Tokens]] | None = None,
    *,
    like: Iterable[Field] | None = None,
    where: Sequence[str] | None = None,
) -> Sequences:
    """Sentences, with the columns "word" (a category, in small letters; what comes once is unknown), "letters" (a
    text), and one target for each kind of tag.

    Args:
        words: the words of each sentence.
        tags: for each kind of tag one for each word; None where there is none.
        like: the fields of other sequences, whose vocabularies are used.
        where: the words for each sentence in a message, such as "web.conllu, line 7".

    Raises:
        InputError: naming the sentence, if it is empty, its tags are not as many as its words, or `like` does not know
            one of them.
    """
    where = where or [f"sentence {number}" for number in range(len(words))]
    tags = tags or {}
    if not len(words):
        raise InputError("words holds no sentence; expected at least one")
    for number, sentence in enumerate(words):
        if not len(sentence) or isinstance(sentence, str):
            raise InputError(f"{where[number]} is {shown(sentence)}; expected a list of at least one word")
        if strange := [word for word in sentence if not isinstance(word, str)]:
            raise InputError(f"{where[number]} holds {shown(strange[0])}; expected words, texts all of them")
        for name, column in tags.items():
            if len(column) != len(words) or len(column[number]) != len(sentence):
                count = len(column[number]) if number < len(column) else 0
                raise InputError(
                    f"{where[number]} has {len(sentence)} words and {count} tags {name!r}; expected one for each"
                )
    fields = {} if like is None else {field.name: field for field in like}
    flat = [word for sentence in words for word in sentence]
    small = [word.lower() for word in flat]
    word = fields.get("word") or Field("word", "category", "past", vocabulary=Vocabulary.of(small, least=2))
    letters = fields.get("letters") or Field(
        "letters", "text", "past", vocabulary=Vocabulary.of(c for w in flat for c in w)
    )
    assert word.vocabulary is not None
    index, table = _spelt(flat, letters)
    found, values = [word, letters], {"word": word.vocabulary.encode(small), "letters": index}
    for name, column in tags.items():
        codes, field = _tagged(name, column, fields.get(name), where)
        found.append(field)
        values[name] = codes
    offsets = torch.tensor([0, *(len(sentence) for sentence in words)]).cumsum(0)
    return Sequences(found, values, offsets, spellings={"letters": table})


def from_conllu(
    text: str, tags: Sequence[str] = ("upos",), *, like: Iterable[Field] | None = None, origin: str = "text"
) -> Sequences:
    """Sentences of CoNLL-U with some of its columns as targets: lemma, upos, xpos, feats, head, deprel, deps, misc.

    Args:
        origin: the file that the text is of, for messages.

    Raises:
        InputError: naming file and line, as `from_tokens` and `parse_conllu`; or a column is none of these.
    """
    found = parse_conllu(text, origin)
    for tag in tags:
        options.choice("tags", tag, tuple(found.tags))
    return from_tokens(found.words, {tag: found.tags[tag] for tag in tags}, like=like, where=found.where)


def from_text(
    texts: str | Sequence[str], labels: Sequence[str] | None = None, *, like: Iterable[Field] | None = None
) -> Sequences:
    """Texts, letter by letter: the column "letter", which is the target, to be predicted from those before it; with
    `labels`, one for each text, it is past, and "y" is the target.

    Raises:
        InputError: naming the text, if it is empty, or if labels are not as many as texts or `like` does not know one.
    """
    plain = [texts] if isinstance(texts, str) else list(texts)
    for number, content in enumerate(plain):
        if not isinstance(content, str) or not content:
            raise InputError(f"texts[{number}] is {shown(content)}; expected a text of at least one letter")
    if not plain:
        raise InputError("texts is empty; expected at least one text")
    fields = {} if like is None else {field.name: field for field in like}
    made = _tokens([list(content) for content in plain], "letter", "target" if labels is None else "past", fields)
    if labels is None:
        return made
    if len(labels) != len(plain):
        raise InputError(f"labels has {len(labels)} names; expected one for each of {len(plain)} texts")
    where = [f"labels[{number}]" for number in range(len(plain))]
    codes, field = _tagged("y", [[label] for label in labels], fields.get("y"), where, whole=True)
    return Sequences([*made.fields.values(), field], made.values | {"y": codes}, made.offsets, made.ids)


@dataclass(frozen=True)
class Pairs:
    """Sequences and what each is to become: sequence n of `source` belongs to sequence n of `target`. Both have one
    column, "token"; of the target it is the target."""

    source: Sequences
    target: Sequences

    def __len__(self) -> int:
        return len(self.source)

    def join(self, other: Pairs) -> Pairs:
        """These pairs, and behind them others of the same fields. Raises InputError if fields differ."""
        return Pairs(self.source.join(other.source), self.target.join(other.target))

    def select(self, which: torch.Tensor | Sequence[int]) -> Pairs:
        """Some pairs, in the order given."""
        return Pairs(self.source.select(which), self.target.select(which))


def from_pairs(
    pairs: Iterable[tuple[str | Sequence[str], str | Sequence[str]]],
    *,
    like: tuple[Iterable[Field], Iterable[Field]] | None = None,
) -> Pairs:
    """Pairs of a source and a target, each a list of tokens, or a text, which is taken letter by letter.

    Raises:
        InputError: naming the pair, if it is none, or a side of it is empty.
    """
    sides: tuple[list[list[str]], list[list[str]]] = ([], [])
    for number, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"pairs[{number}] is {shown(pair)}; expected (source, target)")
        for side, name, tokens in zip(sides, ("source", "target"), pair, strict=True):
            if not tokens or not all(isinstance(token, str) for token in tokens):
                raise InputError(
                    f"pairs[{number}], {name} is {shown(tokens)}; expected a text or a list of texts, not empty"
                )
            side.append(list(tokens))
    if not sides[0]:
        raise InputError("pairs is empty; expected at least one pair")
    known = [{} if like is None else {field.name: field for field in fields} for fields in like or ((), ())]
    return Pairs(_tokens(sides[0], "token", "past", known[0]), _tokens(sides[1], "token", "target", known[1]))


def _tokens(sequences: list[list[str]], name: str, role: str, known: Mapping[str, Field]) -> Sequences:
    """Sequences of one category."""
    flat = [token for tokens in sequences for token in tokens]
    field = known.get(name) or Field(name, "category", role, vocabulary=Vocabulary.of(flat))
    assert field.vocabulary is not None
    offsets = torch.tensor([0, *map(len, sequences)]).cumsum(0)
    return Sequences([field], {name: field.vocabulary.encode(flat)}, offsets)


def _tagged(
    name: str, column: Sequence[Tokens], field: Field | None, where: Sequence[str], whole: bool = False
) -> tuple[torch.Tensor, Field]:
    """The numbers of tags, one behind the other, and their field."""
    flat = [tag for tags in column for tag in tags]
    field = field or Field(name, "category", "target", whole, vocabulary=Vocabulary.of(flat))
    assert field.vocabulary is not None
    codes = field.vocabulary.encode(flat)
    if (codes == field.vocabulary.unknown).any():
        place = int((codes == field.vocabulary.unknown).nonzero()[0])
        sentence = [number for number, tags in enumerate(column) for _ in tags][place]
        raise InputError(
            f"{where[sentence]}: {name} {flat[place]!r} was never seen while fitting; expected a known name, or none"
        )
    return codes, field


def _spelt(words: list[str], field: Field) -> tuple[torch.Tensor, torch.Tensor]:
    """(for each word its row, the rows: the letters of each different word)."""
    assert field.vocabulary is not None
    rows = {word: number for number, word in enumerate(dict.fromkeys(words))}
    spelt = [field.vocabulary.encode(list(word)) for word in rows]
    table = torch.nn.utils.rnn.pad_sequence(spelt, batch_first=True, padding_value=-1)
    return torch.tensor([rows[word] for word in words]), table
