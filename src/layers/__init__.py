"""The layers of BEiT. They read like the paper; src/layers/cpu.py has faster forms for MindSpore's CPU kernels,
src/layers/compiled.py has kernels of its own (kernels.cpp).

Nothing here imports anything else of the project.
"""
