"""Parts of `benchmarks/compare.py`: one program per side, the driver, the calculations and the chart."""
