"""Scores of our runs next to the published ones: statistics, pictures and the page of ``diamond_fast.report``."""
