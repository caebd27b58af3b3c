"""A formulation, a network and a world, each as small as can be: what a new one needs."""
