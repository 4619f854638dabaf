"""Our models inside transformers: rows that are padded, and rows of several sequences."""

import pytest
import torch

from recurra.models import files
from recurra.testing.tolerances import assert_close

transformers = pytest.importorskip("transformers")

from tiny_models import carried, tiny, tokens  # noqa: E402

from recurra.interop.transformers import CACHE  # noqa: E402


def padded(rows, side, filler):
    """Rows of different lengths as one tensor, and which of it counts."""
    longest = max(map(len, rows))
    ids, mask = torch.full((len(rows), longest), filler), torch.zeros(len(rows), longest, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
        ids[i, place], mask[i, place] = row, 1
    return ids, mask


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_scores_as_each_row_alone(pair, side):
    _, theirs = pair
    rows = [tokens(1, length)[0] for length in (9, 1, 5, 3)]
    ids, mask = padded(rows, side, filler=7)
    output = theirs(ids, attention_mask=mask)
    for i, row in enumerate(rows):
        alone = theirs(row[None])
        assert_close(f"row {i}", output.logits[i][mask[i].bool()], alone.logits[0])
        for name, value in carried(alone).state.items():
            assert_close(f"{name} of row {i}", carried(output).state[name][i], value[0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_of_a_hybrid(tmp_path, side):
    """Attention counts positions from each row's own first token."""
    files.save(tiny("griffin+local-attention+attention"), tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    rows = [tokens(1, length)[0] for length in (9, 2, 5)]
    ids, mask = padded(rows, side, filler=7)
    more = tokens(3, 4)
    output = theirs(ids, attention_mask=mask)
    following = theirs(more, **{CACHE: carried(output)}).logits
    for i, row in enumerate(rows):
        alone = theirs(row[None])
        assert_close(f"row {i}", output.logits[i][mask[i].bool()], alone.logits[0])
        after = theirs(more[i : i + 1], **{CACHE: carried(alone)}).logits
        assert_close(f"what follows row {i}", following[i], after[0])


def test_padding_inside_a_row_is_skipped(pair):
    _, theirs = pair
    x, mask = tokens(1, 8), torch.tensor([[1, 0, 0, 1, 1, 0, 1, 1]])
    output = theirs(x, attention_mask=mask).logits[0]
    valid = mask[0].bool()
    assert_close("valid scores", output[valid], theirs(x[:, valid]).logits[0])
    assert not output[~valid].any()


def test_a_batch_padded_left_generates_what_each_row_alone_does(pair):
    _, theirs = pair
    rows = [tokens(1, length)[0] for length in (7, 2, 4)]
    ids, mask = padded(rows, "left", filler=0)
    together = theirs.generate(ids, attention_mask=mask, max_new_tokens=9, do_sample=False)
    for i, row in enumerate(rows):
        alone = theirs.generate(row[None], max_new_tokens=9, do_sample=False)
        assert together[i, 7:].tolist() == alone[0, len(row) :].tolist()


def test_hidden_states_of_a_padded_batch_and_piece_by_piece(pair):
    _, theirs = pair
    rows = [tokens(1, length)[0] for length in (8, 1, 5)]
    ids, mask = padded(rows, "left", filler=7)
    together = theirs(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    for i, row in enumerate(rows):
        for flow, alone in zip(together, theirs(row[None], output_hidden_states=True).hidden_states, strict=True):
            assert_close(f"row {i}", flow[i][mask[i].bool()], alone[0])
            assert not flow[i][~mask[i].bool()].any()
    with torch.no_grad():
        first = theirs(ids[:1, :7], output_hidden_states=True)
        last = theirs(ids[:1, 7:], output_hidden_states=True, **{CACHE: carried(first)})
    for whole, *pieces in zip(together, first.hidden_states, last.hidden_states, strict=True):
        assert_close("in pieces", torch.cat(pieces, 1), whole[:1])


@pytest.fixture
def packed(tmp_path):
    """A model as transformers load it, sequences, and what the collator that flattens a batch makes of them."""
    files.save(tiny("gated-delta-net+attention+min-gru"), tmp_path)
    rows = [tokens(1, length)[0] for length in (4, 1, 1, 6)]
    batch = transformers.DataCollatorWithFlattening(return_tensors="pt", return_seq_idx=True)(
        [{"input_ids": row.tolist()} for row in rows]
    )
    assert batch["position_ids"][0].tolist() == [t for row in rows for t in range(len(row))]
    return transformers.AutoModelForCausalLM.from_pretrained(tmp_path), rows, batch


@pytest.mark.parametrize("first", [0, 2])
def test_packed_sequences_are_those_apart(packed, first):
    theirs, rows, batch = packed
    batch["position_ids"] += first
    output = theirs(**batch)
    alone = [theirs(row[None], labels=row[None]) for row in rows]
    assert_close("logits", output.logits[0], torch.cat([one.logits[0] for one in alone]))
    losses = [one.loss * (len(row) - 1) for one, row in zip(alone, rows, strict=True) if len(row) > 1]
    assert_close("loss", output.loss, sum(losses) / sum(len(row) - 1 for row in rows))


def test_packed_sequences_with_padding_in_and_between_them(packed):
    theirs, rows, batch = packed
    row, other, mask = torch.cat(rows), tokens(1, 12)[0], torch.ones(2, 15, dtype=torch.int64)
    mask[0, [2, 7, 14]], mask[1, [0, 1, 2]] = 0, 0
    ids, positions = torch.zeros(2, 15, dtype=torch.int64), torch.arange(15).repeat(2, 1)
    ids[mask.bool()] = torch.cat([row, other])
    positions[0, mask[0].bool()] = batch["position_ids"][0]
    output = theirs(ids, attention_mask=mask, position_ids=positions)
    assert_close("packed", output.logits[0][mask[0].bool()], theirs(**batch).logits[0])
    assert_close("the other row", output.logits[1][mask[1].bool()], theirs(other[None]).logits[0])


def test_the_first_position_after_a_cache_begins_nothing(packed):
    theirs, rows, _ = packed
    cache, row = carried(theirs(rows[0][None])), rows[-1][None]
    output = theirs(row, position_ids=torch.arange(row.shape[1])[None], **{CACHE: cache})
    assert_close("logits", output.logits, theirs(torch.cat([rows[0][None], row], 1)).logits[:, len(rows[0]) :])
