"""Tests of recipes, their hashes and presets."""
