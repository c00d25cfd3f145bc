"""Sweeps: small functions over a base config, run by `panda sweep`."""
