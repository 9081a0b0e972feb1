"""The porting atlas: pages on traps between PyTorch and JAX, whose code runs and is checked."""
