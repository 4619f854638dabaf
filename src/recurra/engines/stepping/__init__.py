"""One time step of whole modules as one kernel: what streaming runs."""
