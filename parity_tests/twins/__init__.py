"""Tests of both twins against the oracle."""
