"""Modules of `torch.nn`, by this machine's fastest ways."""
