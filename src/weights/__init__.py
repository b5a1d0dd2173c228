"""Weight files: reading and writing foreign formats, translating names, fitting weights to a network."""
