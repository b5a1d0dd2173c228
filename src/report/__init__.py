"""What is left of a run beside its weights: how good they are class by class, what they mistake, what made them."""
