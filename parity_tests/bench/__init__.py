"""Tests of how a contender is timed."""
