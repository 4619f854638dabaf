"""Training a language model: windows, optimiser, checkpoints, metrics."""
