"""What the name map of two loops is made of: layouts, the file, and what proposes it."""
