"""What `benchmarks/compare.py` is made of: one program per side, and what drives, reckons and draws."""
