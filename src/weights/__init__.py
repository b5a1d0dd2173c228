"""Weight files: reading and writing of all formats, translation of names, fitting to a network."""
