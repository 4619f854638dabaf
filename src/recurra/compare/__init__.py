"""Which recurrence does best on somebody's data: each trained for the same time, scored on the same windows."""
