"""Tests of the one data preparation."""
