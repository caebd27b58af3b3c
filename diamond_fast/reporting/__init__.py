"""Scores of our runs beside the published ones: statistics, pictures and the page of ``diamond_fast.report``."""
