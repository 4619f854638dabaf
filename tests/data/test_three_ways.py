"""Carried, packed and padded: one and the same rows, every time step once, whatever the lengths."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recurra.data.reading import Carried, Packed, Padded, stretch
from recurra.data.sequences import Field, Sequences
from recurra.data.vocabulary import Vocabulary
from recurra.errors import InputError

NAMES = Vocabulary(["a", "b", "c"])
LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


def sequences(lengths):
    """Every value is told by its row or its sequence, so that none can be mistaken for another."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    steps = int(offsets[-1])
    values = {
        "y": torch.arange(steps, dtype=torch.float64),
        "wide": torch.arange(2.0 * steps, dtype=torch.float64).view(steps, 2),
        "name": torch.arange(steps) % 3,
        "label": torch.arange(len(lengths)) % 3,
    }
    fields = [
        Field("y", "number", "target"),
        Field("wide", "number", "past", width=(2,)),
        Field("name", "category", "known", vocabulary=NAMES),
        Field("label", "category", "static", whole=True, vocabulary=NAMES),
    ]
    return Sequences(fields, values, offsets)


def ways(data, batch, length, seed):
    return [Carried(data, batch, length, seed), Packed(data, batch, length, seed), Padded(data, batch, seed)]


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 5), st.integers(1, 7), st.sampled_from([None, 0, 1]), st.integers(0, 3))
def test_every_time_step_comes_once_an_epoch(lengths, batch, length, seed, epoch):
    data = sequences(lengths)
    for reading in ways(data, batch, length, seed):
        batches = [reading.read(epoch * len(reading) + n) for n in range(len(reading))]
        rows = torch.cat([b.rows.flatten() for b in batches])
        assert rows[rows >= 0].sort().values.tolist() == list(range(data.steps))
        for b in batches:
            assert b.rows.shape[0] <= batch
            assert torch.equal(b.lengths, (b.rows >= 0).sum(1))
            there = torch.arange(b.rows.shape[1]) < b.lengths[:, None]
            assert torch.equal(there, b.rows >= 0)
            # What a row holds is what the flat columns hold there; padding is missing.
            assert torch.equal(b.columns["y"].nan_to_num(-1), b.rows.to(b.columns["y"].dtype))
            assert torch.equal(b.columns["wide"][..., 0].nan_to_num(-2), 2.0 * b.rows)
            assert torch.equal(b.columns["name"], torch.where(there, b.rows % 3, -1))
            whose = data.sequence_of[b.rows.clamp(min=0)]
            assert torch.equal(b.columns["label"], torch.where(there, whose % 3, -1))


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 5), st.integers(1, 7), st.sampled_from([None, 0, 1]), st.integers(0, 3))
def test_a_row_goes_on_until_a_reset(lengths, batch, length, seed, epoch):
    data = sequences(lengths)
    starts = data.offsets[:-1][data.lengths > 0].tolist()
    for reading in ways(data, batch, length, seed):
        before, cut = {}, []
        for n in range(len(reading)):
            b = reading.read(epoch * len(reading) + n)
            for lane, (rows, resets) in enumerate(zip(b.rows.tolist(), b.resets.tolist(), strict=True)):
                last = before.get(lane) if isinstance(reading, Carried) else None
                for row, reset in zip(rows, resets, strict=True):
                    if row < 0:
                        assert not reset
                        continue
                    assert reset or last == row - 1
                    assert reset or row not in starts
                    if reset and row not in starts:
                        cut.append(row)
                    last = row
                before[lane] = last
        # Only streams cut sequences: at their beginnings.
        assert len(cut) <= (batch if isinstance(reading, Carried) else 0)


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 5), st.integers(1, 7))
def test_a_batch_is_the_same_whenever_it_is_asked_for(lengths, batch, length):
    for one, other in zip(
        ways(sequences(lengths), batch, length, 3), ways(sequences(lengths), batch, length, 3), strict=True
    ):
        for n in np.random.default_rng(len(lengths)).permutation(3 * len(one)).tolist():
            assert torch.equal(one.read(n).rows, other.read(n).rows)
            assert torch.equal(one.read(n).resets, other.read(n).resets)


def test_orders_differ_from_epoch_to_epoch_and_by_seed():
    data = sequences([5] * 40)
    for kind in (lambda s: Carried(data, 4, 5, s), lambda s: Packed(data, 4, 10, s), lambda s: Padded(data, 4, s)):
        rows = [tuple(b.rows.flatten().tolist()) for s in (0, 1) for b in (kind(s).read(0), kind(s).read(len(kind(s))))]
        assert len(set(rows)) == 4
        assert torch.equal(kind(None).read(0).rows, kind(None).read(len(kind(None))).rows)


@given(LENGTHS, st.floats(0, 0.99), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_a_stretch_is_part_of_its_sequence(lengths, crop, seed):
    torch.manual_seed(seed)
    whole = sequences(lengths)
    batch = next(iter(Padded(whole, len(lengths), None)))
    found = stretch(whole, batch, crop)
    assert (found.lengths >= torch.minimum(batch.lengths, (batch.lengths * (1 - crop)).floor())).all()
    for row, own, length in zip(found.rows, batch.rows, found.lengths.tolist(), strict=True):
        assert (row[length:] == -1).all()
        assert set(row[:length].tolist()) <= set(own[own >= 0].tolist())
        assert (row[:length].diff() == 1).all()
    there = found.rows >= 0
    assert (found.columns["y"][there] == found.rows[there]).all()
    assert found.columns["y"][~there].isnan().all()
    assert (found.resets == (there & (torch.arange(found.rows.shape[1]) == 0))).all()


def test_stretches_begin_and_end_anywhere():
    whole = sequences([9])
    batch = next(iter(Padded(whole, 1, None)))
    rows = [stretch(whole, batch, 0.6).rows[0] for _ in range(2000)]
    assert {len(row) for row in rows} == {4, 5, 6, 7, 8, 9}
    assert {int(row[0]) for row in rows} == {0, 1, 2, 3, 4, 5}
    assert all((stretch(whole, batch, 0).rows == batch.rows).all() for _ in range(9))


def test_packed_rows_are_full_and_padded_ones_alike():
    lengths = torch.randint(1, 30, [400]).tolist()
    data = sequences(lengths)
    for reading, least in ((Packed(data, 8, 100), 0.9), (Padded(data, 8), 0.9)):
        cells = sum(b.rows.numel() for b in reading)
        assert data.steps / cells > least


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 4))
def test_ahead_is_what_comes_later_in_the_same_sequence(lengths, horizon):
    data = sequences(lengths)
    rows = torch.cat([torch.arange(data.steps), torch.tensor([-1])])
    y, label = data.ahead("y", rows, horizon), data.ahead("label", rows, horizon)
    for n, row in enumerate(rows.tolist()):
        for step in range(horizon):
            later = row + step + 1
            inside = row >= 0 and later < data.steps and data.sequence_of[later] == data.sequence_of[row]
            assert y[n, step].item() == later if inside else y[n, step].isnan()
            assert label[n, step] == (data.sequence_of[row] % 3 if inside else -1)


@settings(max_examples=40)
@given(LENGTHS, st.integers(-10, 10) | st.none(), st.integers(-10, 10) | st.none())
def test_parts(lengths, start, stop):
    data = sequences(lengths)
    part = data.clip(start, stop)
    pieces = [data.values["y"][a:b][start:stop] for a, b in zip(data.offsets[:-1], data.offsets[1:], strict=True)]
    assert torch.equal(part.values["y"], torch.cat(pieces))
    assert part.lengths.tolist() == [len(piece) for piece in pieces]
    backwards = data.select(list(reversed(range(len(data)))))
    assert backwards.ids == list(reversed(data.ids))
    assert backwards.values["label"].tolist() == data.values["label"].flip(0).tolist()
    assert torch.equal(backwards.select(list(reversed(range(len(data))))).values["wide"], data.values["wide"])


def test_nothing_to_read_is_refused():
    with pytest.raises(InputError, match="no time step"):
        Padded(sequences([0, 0]), 2)
