"""Sweeps: many ordinary runs, on engines that people already have."""
