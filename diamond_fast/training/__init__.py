"""DIAMOND's training: the loop, the three updates, collection and evaluation."""
