"""Atomic writing of files."""
