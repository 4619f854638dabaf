"""Speed and memory, side by side with other implementations, in one run."""
