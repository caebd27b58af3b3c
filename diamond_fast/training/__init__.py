"""DIAMOND's training: the loop, the three updates, and collection."""
