"""Training: state, step, optimizer, checkpoints, validation, metrics, and the loop that ties them together."""
