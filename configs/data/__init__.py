"""Configs of data preparation, read by `panda prepare`."""
