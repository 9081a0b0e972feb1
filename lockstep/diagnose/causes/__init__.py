"""Why two trainings part: the suspect stage recomputed under the known alternatives, until one
gives the numbers.
"""

from lockstep.diagnose.causes.find import find_cause, needed_detail
from lockstep.diagnose.causes.judge import Cause

__all__ = ["Cause", "find_cause", "needed_detail"]
