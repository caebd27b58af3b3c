"""GPU kernels, one file per operation, imported as ``diamond_fast.kernels``: in Triton, but for ``hopper_conv``.

The folder stands at the top of the tree so that the GPU code is found at once. It is never
imported as ``kernels``: that name belongs to another published package.
"""
