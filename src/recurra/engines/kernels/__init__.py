"""How kernels are called: the operator that PyTorch sees, launches, threads."""
