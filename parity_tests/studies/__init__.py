"""Tests of what is asked of many runs."""
