"""How good predictions are: functions of numbers and names, which know no model and no data set."""
