"""Devices, ranks and the launcher: the machine a run uses."""
