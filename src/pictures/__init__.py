"""Charts (matplotlib) and sheets of images (Pillow). Knows nothing of networks, runs or options."""
