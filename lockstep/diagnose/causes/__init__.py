"""Why two trainings part: the suspect stage recomputed under the known alternatives, until one
gives the numbers.
"""

from lockstep.diagnose.causes.alternatives import Cause
from lockstep.diagnose.causes.find import find_cause, needed_detail

__all__ = ["Cause", "find_cause", "needed_detail"]
