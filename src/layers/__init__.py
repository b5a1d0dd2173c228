"""The layers of BEiT. They read like the paper; src/layers/cpu.py has faster forms for MindSpore's CPU kernels.

Nothing here imports anything else of the project.
"""
