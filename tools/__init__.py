"""Programs for those who work on lockstep: they write pages of docs/ and build its site.

The wheel does not have them.
"""
