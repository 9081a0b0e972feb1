"""What the gradients of one loop are of the other's."""
