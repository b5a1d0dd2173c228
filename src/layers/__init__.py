"""The cells BEiT is built of. Nothing here imports anything else of the project."""
