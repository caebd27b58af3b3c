"""How DIAMOND's computations are run: rollouts over an explicit state, and imagination inside the world model."""
