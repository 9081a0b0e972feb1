"""Optimizers: one file each, named as the recipe's."""
