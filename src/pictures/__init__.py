"""Pictures that a run leaves, drawn with Pillow. Knows nothing of networks, runs or options."""
