"""What every rung of the ladder shares."""

from hypothesis import settings

# a machine that is busy elsewhere is no failure
settings.register_profile("lockstep", deadline=None)
settings.load_profile("lockstep")
