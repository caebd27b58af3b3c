"""What DIAMOND computes, in the paper's symbols and plain PyTorch: the readable truth every fast path is held to."""
