"""Sweeps: small functions over a base config, run by launch/sweep.py."""
