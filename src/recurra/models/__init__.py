"""What people train: recurrences in depth, in both directions, and with a head on top."""
