"""What `src.predictor` is made of: finding images, preparing batches of them, running a network, writing results."""
