"""From steps of any kind to what a backbone reads: modules of [B, T, ...], to be put in front of it in a `Chain`."""
