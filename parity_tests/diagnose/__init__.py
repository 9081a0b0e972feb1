"""Tests of verdicts and causes."""
