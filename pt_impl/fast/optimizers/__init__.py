"""The optimizers of the fast engine, named as the recipe's; one that has no file here goes by its
plain rule.
"""
