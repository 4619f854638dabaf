"""A step that has no kernel as a flat list of PyTorch's operations, run again at every time step."""
