"""PyTorch's contenders in a benchmark."""
