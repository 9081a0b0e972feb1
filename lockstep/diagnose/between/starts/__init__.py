"""What one loop starts from beside the other."""
