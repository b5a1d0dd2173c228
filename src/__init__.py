"""BEiT fine-tuning for MindSpore."""
