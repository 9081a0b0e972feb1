"""Tests of the processes that train."""
