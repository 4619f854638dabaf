"""Draws the forecast on the front page: births in the United States, the last 30 days of 1988, from all days before."""

from pathlib import Path

import numpy as np

from recurra import Forecaster
from recurra.data import sets
from recurra.view import pictures

PICTURE = Path(__file__).parent / "images/forecast.png"


def main() -> None:
    """A minute of training."""
    split = sets.load("us_births/D")
    forecaster = Forecaster("gru*2", horizon=split.horizon, seconds=60).fit(split.test.clip(stop=-split.horizon))
    when = (split.test.values["ds"].numpy() * 1e6).astype("int64").astype("datetime64[us]")
    came = {"ds": when, "births": split.test.values["y"].numpy()}
    told = forecaster.predict(level=[80, 95])
    ahead = {name.replace("y", "births", 1): np.asarray(column) for name, column in told.items()}
    pictures.write(pictures.forecasts(ahead, came, "births", "ds", None), PICTURE)


if __name__ == "__main__":
    main()
