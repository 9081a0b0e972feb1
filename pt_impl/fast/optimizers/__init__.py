"""The fast engine's optimizers, named as the recipe's; the others go by their plain rules."""
