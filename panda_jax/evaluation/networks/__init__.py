"""The networks of learned metrics, one file each: the network, and how its published weights are read."""
