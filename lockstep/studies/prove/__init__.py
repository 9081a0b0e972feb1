"""The proof that the checks can fail: faults planted on purpose, in the twins and in the checker
itself.
"""
