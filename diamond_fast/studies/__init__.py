"""The paper's comparisons as commands, one file each: trained side by side, measured on the same held-out episodes.

Each has its settings, a dataclass whose fields are flags, and ``run``. What is measured is kept piece by piece, so that
the same command goes on from where it stopped.
"""
