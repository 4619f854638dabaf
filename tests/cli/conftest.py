"""What tests of several verbs work on."""

import json

import numpy as np
import pytest
from calling import SMALL, called

from recurra.data.writing import write_table


@pytest.fixture(scope="module")
def sales(tmp_path_factory):
    """A file of two series, and a run fitted on it."""
    folder = tmp_path_factory.mktemp("sales")
    days = np.datetime64("2024-01-01") + np.arange(40)
    columns = {
        "unique_id": np.repeat(np.array(["a", "b"], object), 40),
        "ds": np.tile(days, 2),
        "y": np.random.default_rng(0).normal(10, 2, 80).round(3),
        "open": np.tile([1, 0], 40),
    }
    columns["y"][5] = np.nan
    write_table(folder / "sales.csv", columns)
    code, out, err = called(
        "fit", "forecast", folder / "sales.csv", "--out", folder / "run", "--horizon", 3, "--windows", 2,
        "--known", "open", "--json", *SMALL,
    )  # fmt: skip
    assert code == 0, err
    assert err == ""
    assert set(json.loads(out)["result"]["floors"]) == {"naive"}
    return folder
