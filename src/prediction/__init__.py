"""Prediction: find images, load a network, run it, write the results."""
