"""What a layer of one loop computes beside the other's."""
