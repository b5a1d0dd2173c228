"""Metrics of a network over a validation set."""
