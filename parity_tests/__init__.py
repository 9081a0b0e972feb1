"""Tests of parity, and tests of the tests."""
