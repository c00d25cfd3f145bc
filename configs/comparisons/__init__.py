"""Comparisons: which methods make videos of the same clips, run by `panda compare`."""
