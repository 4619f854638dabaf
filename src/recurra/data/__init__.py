"""Text to learn from, cut into windows, and simple compressors to be compared with."""
