"""The fast engine: the pair's mathematics with nothing between updates, for one or many members."""
