"""The networks in plain PyTorch, in the paper's symbols: the readable truth every fast path is held to."""
