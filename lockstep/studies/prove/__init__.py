"""The proof that the checks can fail: faults planted in twins, libraries and the checker itself."""
