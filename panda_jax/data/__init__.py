"""Clips on disk and on the way to the accelerator: video files, records, the input pipeline, made worlds."""
