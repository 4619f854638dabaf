"""One published recurrence per file, and nothing but its mathematics."""
