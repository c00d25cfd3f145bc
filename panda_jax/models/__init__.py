"""Networks, one per file. They know arrays and nothing of systems, data or meshes."""
