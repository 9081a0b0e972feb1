"""The fast engine: the same mathematics as the pair, with nothing between the updates; and many
members at once.
"""
