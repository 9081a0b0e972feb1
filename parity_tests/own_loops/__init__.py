"""Tests of other people's loops."""
