"""What one loop is fed beside the other."""
