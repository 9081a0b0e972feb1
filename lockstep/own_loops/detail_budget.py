"""Detail of chosen updates within a budget of memory; beyond it, the detail is thinned evenly."""

from typing import Any

from numpy.typing import NDArray

__all__ = ["Detail", "note_on_budget"]

Arrays = dict[str, NDArray[Any]]
MIB = 2**20


class Detail:
    """Arrays of updates, with the parameters before and after each.

    When they outgrow the budget, every 2nd of the updates offered is kept, then every 4th, and so
    on. The first and the latest are always kept, as long as these two fit.

    Args:
        budget: memory in bytes.

    Attributes:
        bytes: the size of all arrays that are kept.
        stride: every so many of the updates offered are kept.
        offered: the number of updates offered.
        largest: the size in bytes of the largest update offered, with its parameters.
        updates: update -> its arrays.
        parameters: updates done -> the parameters.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self.stride = 1
        self.offered = 0
        self.largest = 0
        self.updates: dict[int, Arrays] = {}
        self.parameters: dict[int, Arrays] = {}
        self._ordinals: dict[int, int] = {}

    def add(self, update: int, arrays: Arrays, before: Arrays, after: Arrays) -> None:
        """Offer the next update, with the parameters before and after it."""
        latest = next(reversed(self._ordinals), None)
        if latest is not None and self._ordinals[latest] % self.stride:
            self._drop(latest)
        self.updates[update] = arrays
        self._ordinals[update] = self.offered
        self.offered += 1
        self.bytes += _bytes(arrays)
        self.largest = max(self.largest, _bytes(arrays) + _bytes(before) + _bytes(after))
        for done, parameters in ((update, before), (update + 1, after)):
            if done not in self.parameters:
                self.parameters[done] = parameters
                self.bytes += _bytes(parameters)
        self.thin()

    def refuse(self, size: int) -> None:
        """Count an update whose tensors, of `size` bytes with its parameters, do not fit."""
        self.offered += 1
        self.largest = max(self.largest, size)

    def thin(self, beside: int = 0) -> None:
        """Drop updates until the rest fits into the budget less the bytes that lie `beside`."""
        while self.bytes + beside > self.budget and self.updates:
            *others, latest = self._ordinals
            if len(others) <= 1:
                self._drop(latest)
                continue
            self.stride *= 2
            for update in others:
                if self._ordinals[update] % self.stride:
                    self._drop(update)

    def _drop(self, update: int) -> None:
        self.bytes -= _bytes(self.updates.pop(update))
        del self._ordinals[update]
        for done in (update, update + 1):
            if done not in self.updates and done - 1 not in self.updates:
                self.bytes -= _bytes(self.parameters.pop(done))


def note_on_budget(update_bytes: int, budget_mib: float) -> str:
    """A note if the budget keeps the tensors of one update or of none; "" otherwise.

    Args:
        update_bytes: bytes of one update's tensors, with the parameters before and after it.
        budget_mib: the budget in MiB.
    """
    size = f"{update_bytes / MIB:.0f} MiB"
    summaries = "every=0, sketches=True keeps numbers of each tensor in their place"
    budget = budget_mib * MIB
    enough_mib = -(-2 * update_bytes // MIB)
    if update_bytes > budget:
        return (
            f"no update's tensors are kept: one takes {size}, and budget_mib is {budget_mib:g}; "
            f"budget_mib={enough_mib} keeps the first and the last; {summaries}"
        )
    if 2 * update_bytes <= budget:
        return ""
    return (
        f"the tensors of the first and of the last update do not both fit: one takes {size}, and "
        f"budget_mib is {budget_mib:g}; budget_mib={enough_mib} keeps both; {summaries}"
    )


def _bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
