"""Sweeps: many runs of `panda train` from one small file. What is in them, running them here, comparing them."""
