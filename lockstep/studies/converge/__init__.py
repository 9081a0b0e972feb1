"""Convergence compared over many seeds: do two ways of training come to the same?"""
