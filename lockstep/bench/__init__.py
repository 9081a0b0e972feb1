"""How a contender is timed and judged: one process each, proved equal first, interleaved in random
order.
"""
