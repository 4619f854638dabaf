"""Files of every format are read to their last value, and what is wrong with one is said with its line."""

import json
import pickle
import warnings

import numpy as np
import pytest
import torch

from recurra.data import formats
from recurra.data.frames import from_frame
from recurra.data.pickles import unpickle
from recurra.data.tables import Table
from recurra.data.tabular import parse_inter, read_table
from recurra.errors import InputError

ROWS = {"unique_id": ["a", "b", "a"], "ds": ["2024-01-01", "2024-01-01", "2024-01-02"], "y": [1.5, None, -2e3]}


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_csv(separator):
    lines = zip(*ROWS.values(), strict=True)
    return "\r\n".join(separator.join("" if v is None else f'"{v}"' for v in line) for line in [tuple(ROWS), *lines])


def as_json_lines():
    return "\n\n".join(json.dumps(dict(zip(ROWS, line, strict=True))) for line in zip(*ROWS.values(), strict=True))


FILES = [
    *((f"rows{number}.csv", as_csv(separator)) for number, separator in enumerate(",;\t|")),
    ("rows.tsv", as_csv("\t")),
    ("rows.jsonl", as_json_lines()),
    ("rows.csv", "\ufeff" + as_csv(",") + "\n\n"),
]


@pytest.mark.parametrize(("name", "content"), FILES, ids=[name for name, _ in FILES])
def test_tables_in_files_are_those_in_memory(tmp_path, name, content):
    found, expected = from_frame(read_table(written(tmp_path, name, content))), from_frame(ROWS)
    assert found.ids == expected.ids == ["a", "b"]
    assert found.fields == expected.fields
    for column, values in expected.values.items():
        assert torch.equal(found.values[column].nan_to_num(-1), values.nan_to_num(-1))


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_data_frames_of_any_library(tmp_path, library):
    module = pytest.importorskip(library)
    days = np.array(ROWS["ds"], "datetime64[ms]")
    columns = ROWS | {"ds": days}
    frame = module.table(columns) if library == "pyarrow" else module.DataFrame(columns)
    found, expected = from_frame(frame), from_frame(ROWS)
    assert found.fields == expected.fields
    assert all(torch.equal(v.nan_to_num(-1), found.values[n].nan_to_num(-1)) for n, v in expected.values.items())
    if library == "pandas":
        indexed = from_frame(frame.set_index(["unique_id", "ds"]))
        assert all(torch.equal(v.nan_to_num(-1), indexed.values[n].nan_to_num(-1)) for n, v in found.values.items())
    if library == "polars":
        with pytest.raises(InputError, match="frame is a LazyFrame"), warnings.catch_warnings(action="ignore"):
            from_frame(frame.lazy())
    if library == "pyarrow":
        from pyarrow import parquet

        parquet.write_table(frame, tmp_path / "rows.parquet")
        assert torch.equal(from_frame(read_table(tmp_path / "rows.parquet")).values["ds"], expected.values["ds"])
        table = Table(module.table(columns | {"unique_id": ["1", "b", "2"]}), "rows.parquet")
        with pytest.raises(InputError, match=r"rows.parquet, row 1, column 'unique_id' is 'b'; expected a number"):
            table.numbers("unique_id")


BAD = [
    ("a.csv", "", "is empty"),
    ("a.csv", "y\n", "has no rows"),
    ("a.csv", "y,y\n1,2", "line 1 has the column 'y' twice"),
    ("a.csv", "y,\n1,2", "line 1 has a column without a name"),
    ("a.csv", "y,x\n1,2\n\n3", "line 4 has 1 values; expected 2"),
    ("a.csv", 'y,x\n"a\nb",2\n1,2,3', "line 4 has 3 values"),
    ("a.csv", 'y,x\n"a"b,2', "line 2: "),
    ("a.csv", b"y\n1\n12\xff", "line 3, byte 3 is 0xff; expected text in UTF-8"),
    ("a.csv", "ds,y\n1,2\n2,many\n3,4\n4,5", "line 3, column 'y' is 'many'; expected a number"),
    ("a.jsonl", '{"y": 1}\n{"y": }', "line 2, column 7"),
    ("a.jsonl", '{"y": 1}\n[1]', "line 2 is [1]; expected a JSON object"),
    ("a.jsonl", '{"y": 1}\n{"y": 1, "x": 2}', "line 2 has the key 'x'"),
    ("a.xls", "", "ends in '.xls'; expected one of .csv"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_tables(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        from_frame(read_table(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match=r"cannot be read|ends in"):
            read_table(path)


TSF = "@attribute series_name string\n@attribute start_timestamp date\n@frequency monthly\n@data\n"


def test_tsf():
    table = formats.parse_tsf("# about\n" + TSF + "T1:2000-12-01 00-00-00:1,?,3\nT2:1999-02-01 00-00-00:4\n", "m.tsf")
    assert table.columns["unique_id"].tolist() == ["T1", "T1", "T1", "T2"]
    assert table.columns["ds"].astype("datetime64[M]").astype(str).tolist() == [
        "2000-12",
        "2001-01",
        "2001-02",
        "1999-02",
    ]
    assert np.isnan(table.columns["y"][1])
    assert table.where(3) == "m.tsf, line 7"


def test_ts_and_arff():
    cases, labels = formats.parse_ts("@data\n1,2,?:4,5,6:up\n7:8:down", "a.ts")
    assert [case.tolist() for case in cases[1:]] == [[[7], [8]]]
    assert np.isnan(cases[0][0, 2])
    assert labels == ["up", "down"]
    cases, labels = formats.parse_arff("% x\n@attribute a numeric\n@data\n1,2,'up'\n?,4,down", "a.arff")
    assert cases[0].tolist() == [[1, 2]]
    assert labels == ["up", "down"]


CONLLU = """# text = abc
1-2\tdel\t_\t_\t_\t_\t_\t_\t_\t_
1\tde\tde\tADP\tE\t_\t2\tcase\t_\t_
2\tel\tel\tDET\t_\t_\t0\troot\t_\t_
2.1\tghost\t_\t_\t_\t_\t_\t_\t_\t_

1\tsí\tsí\tINTJ\tI\t_\t0\troot\t_\t_"""


def test_conllu():
    for text in (CONLLU, CONLLU + "\n\n", CONLLU.replace("\n", "\r\n")):
        found = formats.parse_conllu(text, "a.conllu")
        assert found.words == [["de", "el"], ["sí"]]
        assert found.tags["xpos"] == [["E", None], ["I"]]
        assert found.tags["upos"] == [["ADP", "DET"], ["INTJ"]]
        assert found.where == ["a.conllu, line 3", "a.conllu, line 7"]


def test_brown_and_cmudict():
    found = formats.parse_brown("\n\tThe/at 1/2/cd ''/''\n\nEnd/nn-tl-hl --/--", "ca01")
    assert found.words == [["The", "1/2", "''"], ["End", "--"]]
    assert found.tags["pos"] == [["at", "cd", "''"], ["nn", "--"]]
    pairs = formats.parse_cmudict(";;; about\na AH0\na(2) EY1 # letter\n", "dict")
    assert pairs == [("a", ["AH"]), ("a", ["EY"])]


def test_inter():
    table = parse_inter(b"user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n", "ml.inter")
    assert list(table.columns) == ["user_id", "item_id", "timestamp"]


BAD_FORMATS = [
    (formats.parse_tsf, "@data\n1,2", "line 2 has 0 attributes"),
    (formats.parse_tsf, TSF + "T:2000-01-01:1,x", "line 5: could not convert"),
    (formats.parse_tsf, "@frequency never", "frequency is 'never'; expected one of yearly"),
    (formats.parse_tsf, TSF, "holds no series"),
    (formats.parse_ts, "@data\n1,2:3:up", "line 2 has channels of lengths [2, 1]"),
    (formats.parse_ts, "@timeStamps true", "time stamps are not read"),
    (formats.parse_ts, "@data", "holds no series"),
    (formats.parse_arff, "@attribute a relational", "several channels"),
    (formats.parse_conllu, "1\tword", "line 1 has 2 columns"),
    (formats.parse_conllu, "# nothing\n", "holds no sentence"),
    (formats.parse_conllu, "x" + "\t_" * 9, "line 1, column 1 is 'x'"),
    (formats.parse_brown, "The/at dog", "line 1: 'dog'; expected a word, a slash"),
    (formats.parse_cmudict, "word", "line 1: 'word'"),
]


@pytest.mark.parametrize(("reader", "text", "message"), BAD_FORMATS)
def test_bad_formats(reader, text, message):
    with pytest.raises(InputError) as caught:
        reader(text, "file")
    assert message in str(caught.value)
    assert str(caught.value).startswith("file")
    assert "\n" not in str(caught.value)


class Hostile:
    def __reduce__(self):
        return (print, ("run",))


def test_pickles_run_nothing(capsys):
    array = np.array([1.5, None, "x"], object)
    assert unpickle(pickle.dumps({"a": array}, 2), "ours")["a"].tolist() == array.tolist()
    for content in (pickle.dumps(Hostile()), b"no pickle"):
        with pytest.raises(InputError, match="theirs cannot be read"):
            unpickle(content, "theirs")
    assert capsys.readouterr().out == ""
