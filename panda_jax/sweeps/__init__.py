"""Many `panda` commands from one small file: runs of a sweep, methods of a comparison. Read, run, compared."""
