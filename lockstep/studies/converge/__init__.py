"""Convergence over many seeds: whether two ways of training reach the same."""
