"""Matrix memories a chunk of time steps at a time, as matrix products."""
