"""Where code runs: this machine, and where its code is kept."""
