"""Diffusion formulations as pure functions: what noise is, what the network learns, how a frame is drawn."""
