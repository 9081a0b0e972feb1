"""The memory of the machine, asked before any is taken: a size that cannot fit is refused by
arithmetic."""

import os
from contextlib import suppress
from pathlib import Path

from lockstep.errors import InputError

__all__ = ["in_bytes", "memory_limit", "refuse_too_large"]

CONTROL_GROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
UNKNOWN = 2**40
"""Bytes that are taken for the limit where the system does not say."""


def memory_limit() -> int:
    """Bytes that this process can have: the least of the machine's memory, its control group's
    limit and its own."""
    limits = [UNKNOWN]
    with suppress(AttributeError, OSError, ValueError):  # no POSIX system
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for place in CONTROL_GROUP:
        with suppress(OSError, ValueError):  # no such group, or "max"
            limits.append(int(Path(place).read_text()))
    return min([*limits, *_own_limits()])


def _own_limits() -> list[int]:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return []
    soft = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return [limit for limit in soft if limit != resource.RLIM_INFINITY]


def refuse_too_large(what: str, needed: int) -> None:
    """Raise InputError if `needed` bytes are more than there are.

    Args:
        what: the field or file that needs them, with which the line begins: "data.rows: 10 rows".
        needed: bytes, at least.
    """
    limit = memory_limit()
    if needed > limit:
        raise InputError(
            f"{what}: would take at least {in_bytes(needed)} of memory, and there are "
            f"{in_bytes(limit)}"
        )


def in_bytes(count: int) -> str:
    """Bytes as a number and in a unit for people: "171,798,691,760 bytes (160 GiB)"."""
    unit = min(max(count.bit_length() - 1, 0) // 10, 6)
    rounded = "" if unit == 0 else f" ({count / 2 ** (10 * unit):.3g} {'KMGTPE'[unit - 1]}iB)"
    return f"{count:,} bytes{rounded}"
