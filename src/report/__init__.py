"""The report on a checkpoint: scores per class, confusions, mistakes, and the versions that produced them."""
