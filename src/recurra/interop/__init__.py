"""Other people's checkpoints as models of ours, and back."""
