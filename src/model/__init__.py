"""What a BEiT is, without MindSpore: variants, configuration, and the information stored with its weights."""
