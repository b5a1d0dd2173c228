"""Options of scripts, declared once as dataclass fields, with values from a YAML file and the command line."""
