"""Tests of learning rates."""
