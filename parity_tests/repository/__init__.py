"""Tests of the house itself: structure, documents, site."""
