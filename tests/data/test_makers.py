"""What comes in as a table, arrays or words is what `Sequences` hold; what is wrong is said in a line."""

import datetime
import itertools

import numpy as np
import pytest
import torch

from recurra.data.arrays import from_arrays
from recurra.data.frames import from_events, from_frame
from recurra.data.sequences import Field
from recurra.data.tables import Table
from recurra.data.times import Frequency
from recurra.data.words import from_conllu, from_pairs, from_text, from_tokens
from recurra.errors import InputError

DAYS = np.datetime64("2024-02-28") + np.arange(4)


def frame(**other):
    """Two series whose rows alternate."""
    columns = {
        "unique_id": ["b", "a"] * 4,
        "ds": np.repeat(DAYS, 2),
        "y": np.arange(8.0),
        "x": [1, None, 3, 4, 5, 6, 7, 8],
        "sky": ["clear", "rain", None, "clear", "fog", "rain", "rain", "clear"],
        "region": ["n", "s"] * 4,
    }
    return columns | other


def test_a_long_table():
    data = from_frame(frame(), known=["sky"], static=["region"])
    assert data.ids == ["b", "a"]
    assert data.lengths.tolist() == [4, 4]
    assert data.values["y"].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert data.values["x"].nan_to_num(-1).tolist() == [1, 3, 5, 7, -1, 4, 6, 8]
    assert data.fields["sky"].vocabulary.names == ("clear", "fog", "rain")
    assert data.values["sky"].tolist() == [0, -1, 1, 2, 2, 0, 2, 0]
    assert data.values["region"].tolist() == [0, 1]
    assert [(f.name, f.role) for f in data.fields.values()] == [
        ("ds", "time"), ("y", "target"), ("region", "static"), ("sky", "known"), ("x", "past")
    ]  # fmt: skip
    assert data.frequency() == Frequency(0, 86400)
    assert data.elapsed.tolist() == [1.0] * 8


def test_other_rows_in_the_same_fields():
    fields = from_frame(frame(), known=["sky"], static=["region"]).fields.values()
    fields = [Field.from_dict(field.as_dict()) for field in fields]
    # A single row may be the same everywhere, a name of an input may be new.
    data = from_frame({name: [column[0]] for name, column in frame(sky=["hail"] * 8).items()}, like=fields)
    assert data.values["sky"].item() == data.fields["sky"].vocabulary.unknown == 3
    with pytest.raises(InputError, match=r"no column 'x'"):
        from_frame({name: column for name, column in frame().items() if name != "x"}, like=fields)
    with pytest.raises(InputError, match=r"column 'ds' holds numbers; expected dates"):
        from_frame(frame(ds=np.repeat(np.arange(4), 2)), like=fields)


BAD_FRAMES = [
    ({"y": [0.0, 1, 2, np.inf, 4, 5, 6, 7]}, {}, "row 3, column 'y' is inf; expected a finite number"),
    ({"y": [0, 1, "two", 3, 4, 5, 6, 7]}, {}, "row 2, column 'y' is 'two'; expected a number"),
    ({"y": [5] * 8}, {}, "column 'y' is 5 in all 8 rows"),
    ({"y": [np.nan] * 8}, {}, "column 'y' is empty in all 8 rows"),
    ({"sky": ["rain"] * 8}, {}, "column 'sky' is 'rain' in all 8 rows"),
    ({"ds": DAYS[[0, 0, 2, 1, 1, 2, 3, 3]]}, {}, "row 4, column 'ds': 2024-02-29 comes after 2024-03-01 in series 'b'"),
    ({"ds": DAYS[[0, 0, 1, 1, 2, 1, 3, 3]]}, {}, "row 5, column 'ds': 2024-02-29 comes twice in series 'a'"),
    ({"ds": ["2024-01-01"] * 7 + ["soon"]}, {}, "row 7, column 'ds' is 'soon'; expected a time"),
    ({"ds": [None] + ["2024-01-01"] * 7}, {}, "row 0, column 'ds' is None; expected a time"),
    ({"unique_id": ["a"] * 7 + [None]}, {}, "row 7, column 'unique_id' is empty"),
    ({"region": list("nsnsnnns")}, {"static": ["region"]}, "row 5, static column 'region' changes within a series"),
    ({"y": [1, 2]}, {}, "columns of one length"),
    ({}, {"target": "price"}, "frame has no column 'price'; expected one among its columns 'unique_id', 'ds'"),
    ({}, {"time": "when"}, "no column 'when'"),
    ({}, {"known": "y"}, "column 'y' is target and known; expected one of them"),
    ({"ds": ["2024-01-01", 3] * 4}, {}, "row 1, column 'ds' is 3; expected a time"),
    ({"x": 3}, {}, "column 'x' is of shape []"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "arguments", "message"), BAD_FRAMES)
def test_bad_tables(columns, arguments, message):
    with pytest.raises(InputError) as caught:
        from_frame(frame(**columns), **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_times_in_texts_may_be_numbers():
    data = from_frame({"ds": ["1", "2.5", "4"], "y": [1, 2, 3]})
    assert data.values["ds"].tolist() == [1, 2.5, 4]
    assert not data.fields["ds"].dated


def test_rows_of_a_file_are_lines():
    table = Table({"y": [1.0, np.inf]}, "births.csv", [2, 3])
    with pytest.raises(InputError, match=r"births.csv, line 3, column 'y' is inf"):
        from_frame(table)


def test_no_rows():
    for maker in (from_frame, from_events):
        with pytest.raises(InputError, match="no rows"):
            maker({"y": [], "user_id": [], "item_id": []})


def test_a_tag_that_was_never_seen():
    fields = from_frame({"y": ["up", "down", "up"]}).fields.values()
    with pytest.raises(InputError, match=r"row 1, column 'y' is 'left', which was never seen while fitting"):
        from_frame({"y": ["up", "left"]}, like=fields)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (np.datetime64("2020-01-31") + np.arange(5) * 7, Frequency(0, 7 * 86400)),
        (np.array(["2023-12-31", "2024-01-31", "2024-02-29", "2024-03-31"], "datetime64[D]"), Frequency(1, 0)),
        (np.arange("2020-01", "2021-01", 3, "datetime64[M]"), Frequency(3, 0)),
        (np.arange("2019", "2025", dtype="datetime64[Y]"), Frequency(12, 0)),
        (np.array(["2024-01-01", "2024-01-02", "2024-01-05"], "datetime64[D]"), Frequency(0, 86400)),
        ([1, 3, 7], Frequency(0, 2)),
        (["2024-01-01T00:30Z", "2024-01-01T01:00Z", "2024-01-01T01:30Z"], Frequency(0, 1800)),
    ],
)
def test_frequencies(times, expected):
    data = from_frame({"ds": times, "y": np.arange(len(times))})
    found, own = data.frequency(), data.values["ds"].tolist()
    assert found == expected
    for one, other in itertools.pairwise(own):
        steps = found.between(one, other)
        assert found.after(one, steps) == other
        assert found.after(other, -steps) == one or expected.months  # the last day of February is not that of March


def test_a_short_series_of_equal_months_is_of_the_frequency_of_the_others():
    years, quarter = (
        np.arange("1973", "1980", dtype="datetime64[Y]"),
        np.arange("2024-07", "2024-10", dtype="datetime64[M]"),
    )
    months = np.arange("2020-01", "2020-09", dtype="datetime64[M]")
    for times, short, expected in ((years, years[:3], 12), (months, quarter, 1)):
        for parts in ((times, short), (short, times)):
            ids, ds = np.repeat(["a", "b"], [len(part) for part in parts]), np.concatenate(parts)
            data = from_frame({"unique_id": ids, "ds": ds, "y": np.arange(len(ds))})
            assert data.frequency() == Frequency(expected, 0)
    other = {"unique_id": list("aaabb"), "ds": [*months[:3], *months[:4:2]], "y": np.arange(5)}
    with pytest.raises(InputError, match="series 'b' has other steps than 'a'"):
        from_frame(other).frequency()


def test_times_with_zones_are_points_in_time():
    zone = datetime.timezone(datetime.timedelta(hours=2))
    times = [datetime.datetime(2024, 1, 1, hour, tzinfo=zone) for hour in (2, 3)]
    assert from_frame({"ds": times, "y": [1, 2]}).values["ds"].tolist() == [1704067200, 1704070800]


def test_mixed_frequencies():
    days = np.array(["2024-01-01", "2024-01-02", "2024-01-03T07"], "datetime64[h]")
    with pytest.raises(InputError, match=r"series 'series' has steps of different lengths in 'ds' \(2024-01-01, "):
        from_frame({"ds": days, "y": [1, 2, 3]}).frequency()
    both = {"unique_id": list("aabb"), "ds": np.array([0, 1, 0, 2]), "y": [1, 2, 3, 4]}
    with pytest.raises(InputError, match="series 'b' has other steps than 'a'"):
        from_frame(both).frequency()
    assert from_frame(both).elapsed.tolist() == [1.0, 1.0, 1.0, 2.0]


def test_events_are_in_order_of_time_and_ties_in_order_of_the_table():
    events = {"user_id": [1, 2, 1, 1, 2], "item_id": [10, 20, 30, 40, 50], "timestamp": [5, 1, 3, 5, 0]}
    data = from_events(events)
    names = data.fields["item_id"].vocabulary.decode(data.values["item_id"])
    assert dict(
        zip(data.ids, [names[a:b] for a, b in zip(data.offsets, data.offsets[1:], strict=False)], strict=True)
    ) == {
        "1": ["30", "10", "40"],
        "2": ["50", "20"],
    }
    again = from_events(events, like=data.fields.values())
    assert torch.equal(again.values["item_id"], data.values["item_id"])


def test_arrays_of_equal_and_unequal_lengths():
    whole = torch.randn(3, 2, 5, dtype=torch.float64)
    for X in (whole.numpy(), whole, list(whole.numpy()), whole.tolist()):
        data = from_arrays(X, [1, 2, 1])
        assert torch.equal(data.values["x"].view(3, 5, 2).mT, whole)
        assert data.fields["y"].vocabulary.names == ("1", "2")
        assert data.values["y"].tolist() == [0, 1, 0]
    ragged = from_arrays([np.arange(4.0), np.arange(2.0)], [0.5, np.nan], labels="number")
    assert ragged.lengths.tolist() == [4, 2]
    assert ragged.values["x"][:, 0].tolist() == [0, 1, 2, 3, 0, 1]
    assert ragged.values["y"][1].isnan()
    steps = from_arrays([np.arange(3.0), np.arange(2.0)], [[0, 1, 0], [1, 0]])
    assert steps.values["y"].tolist() == [0, 1, 0, 1, 0]


BAD_ARRAYS = [
    (np.zeros(3), None, "X is [3]; expected [cases, channels, T]"),
    ([], None, "holds no case"),
    ([np.zeros((2, 3)), np.zeros((1, 3))], None, "case 1 has 1 channels; expected 2"),
    ([np.zeros(3), np.zeros(0)], None, "case 1 is [1, 0]; expected"),
    ([np.zeros(3), ["a", "b"]], None, "case 1 is ['a', 'b']; expected an array of numbers"),
    (np.array([[[0.0, 1], [2, 3]], [[4, np.inf], [5, 6]]]), None, "case 1, channel 0, step 1 is infinite"),
    (np.array([[[0.0, 1], [np.nan, np.nan]]]), None, "channel 1 is NaN in all cases"),
    (np.zeros((2, 3)), [1], "y has 1 labels; expected 2"),
    ([np.zeros(3), np.zeros(2)], [[1, 2, 3], [1]], "case 1 has 1 labels; expected 2"),
]  # fmt: skip


@pytest.mark.parametrize(("X", "y", "message"), BAD_ARRAYS)
def test_bad_arrays(X, y, message):
    with pytest.raises(InputError) as caught:
        from_arrays(X, y)
    assert message in str(caught.value)


def test_arrays_like_others():
    fields = from_arrays(np.random.rand(3, 2, 4), ["a", "b", "a"]).fields.values()
    assert from_arrays(np.full((1, 2, 3), np.nan), ["b"], like=fields).values["y"].tolist() == [1]
    with pytest.raises(InputError, match="has 1 channels; expected 2, as it was fitted on"):
        from_arrays(np.zeros((1, 3)), like=fields)
    with pytest.raises(InputError, match=r"y\[0\] is 'c', which was never seen while fitting; expected one of a, b"):
        from_arrays(np.zeros((1, 2, 3)), ["c"], like=fields)


def test_words_tags_and_letters():
    data = from_tokens([["The", "cat"], ["the", "ends"]], {"pos": [["D", "N"], ["D", None]]})
    assert data.fields["word"].vocabulary.names == ("the",)
    assert data.values["word"].tolist() == [0, 1, 0, 1]
    assert data.values["pos"].tolist() == [0, 1, 0, -1]
    letters = data.take("letters", torch.tensor([[0, 1], [3, -1]]))
    assert letters.shape == (2, 2, 4)
    alphabet = data.fields["letters"].vocabulary
    assert ["".join(c or "" for c in alphabet.decode(word)) for word in letters.flatten(0, 1)] == [
        "The",
        "cat",
        "ends",
        "",
    ]
    assert data.take("letters", torch.tensor([-1])).shape == (1, 0)
    later = from_tokens([["Zebra", "the"]], like=data.fields.values())
    assert later.values["word"].tolist() == [1, 0]
    assert later.take("letters", torch.tensor([0]))[0].tolist() == alphabet.encode(list("Zebra")).tolist()
    for words, tags, message in [
        ([], {}, "no sentence"),
        ([["a"], []], {}, "sentence 1 is []; expected a list of at least one word"),
        (["ab"], {}, "sentence 0 is 'ab'; expected a list"),
        ([["a", "b"]], {"pos": [["X"]]}, "sentence 0 has 2 words and 1 tags 'pos'"),
    ]:
        with pytest.raises(InputError) as caught:
            from_tokens(words, tags)
        assert message in str(caught.value)
    with pytest.raises(InputError, match="sentence 0: pos 'Q' was never seen"):
        from_tokens([["a"]], {"pos": [["Q"]]}, like=data.fields.values())


def test_texts_and_pairs():
    data = from_text(["abc", "ca"], ["x", "y"])
    assert data.fields["letter"].role == "past"
    assert data.values["letter"].tolist() == [0, 1, 2, 2, 0]
    assert from_text("ab").fields["letter"].role == "target"
    pairs = from_pairs([("ab", ["X", "YY"]), ("b", ["YY"])])
    assert pairs.source.values["token"].tolist() == [0, 1, 1]
    assert pairs.target.values["token"].tolist() == [0, 1, 1]
    assert pairs.select([1]).target.lengths.tolist() == [1]
    known = (pairs.source.fields.values(), pairs.target.fields.values())
    assert from_pairs([("az", "X")], like=known).source.values["token"].tolist() == [0, 2]
    for given, message in [
        ([], "pairs is empty"),
        (["abc"], "pairs[0] is 'abc'; expected (source, target)"),
        ([("a", "b"), ("", "b")], "pairs[1], source is ''"),
        ([("a", [1])], "pairs[0], target is [1]"),
    ]:
        with pytest.raises(InputError) as caught:
            from_pairs(given)
        assert message in str(caught.value)
    with pytest.raises(InputError, match=r"texts\[1\] is ''"):
        from_text(["a", ""])


def test_absent_rows_are_there_and_missing():
    months = np.array(["2023-12-31", "2024-01-31", "2024-03-31", "2024-06-30"], "datetime64[D]")
    data = from_frame({"ds": months, "y": [1, 2, 3, 4], "sky": ["a", "b", "a", "b"], "z": list("nnnn")}, static=["z"])
    full = data.filled()
    assert full.values["y"].nan_to_num(-1).tolist() == [1, 2, -1, 3, -1, -1, 4]
    assert full.values["sky"].tolist() == [0, 1, -1, 0, -1, -1, 1]
    assert full.values["z"].tolist() == [0]
    ends = np.array(full.values["ds"].tolist()).astype("datetime64[s]").astype("datetime64[D]").astype(str)
    assert ends.tolist()[2:6] == ["2024-02-29", "2024-03-31", "2024-04-30", "2024-05-31"]
    assert full.filled() is full


def test_one_label_for_each_series():
    data = from_frame({"unique_id": list("aabb"), "x": [1, 2, 3, 4], "y": list("uudd")}, static=["y"])
    assert data.fields["y"].role == "target"
    assert data.values["y"].tolist() == [1, 0]
    with pytest.raises(InputError, match="row 3, static column 'y' changes"):
        from_frame({"unique_id": list("aabb"), "x": [1, 2, 3, 4], "y": list("uudu")}, static=["y"])


def test_conllu_with_chosen_tags():
    text = "1\tDie\tder\tDET\tART\t_\t2\tdet\t_\t_\n2\tKuh\tKuh\tNOUN\tNN\t_\t0\troot\t_\t_\n"
    data = from_conllu(text, ["xpos", "upos"])
    assert [field.name for field in data.of_role("target")] == ["xpos", "upos"]
    with pytest.raises(InputError, match="tags is 'pos'; expected 'lemma' or 'upos'"):
        from_conllu(text, ["pos"])
    other = from_conllu(text.replace("\tART", "\tX"), ["xpos"])
    with pytest.raises(InputError, match=r"a\.conllu, line 1: xpos 'ART' was never seen"):
        from_conllu(text, ["xpos"], like=other.fields.values(), origin="a.conllu")
