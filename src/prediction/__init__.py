"""The parts of the predictor: finding images, preparing batches, running a network, writing results."""
