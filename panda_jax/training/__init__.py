"""Training: state, step, optimizer, checkpoints, metrics, and the loop that ties them together."""
