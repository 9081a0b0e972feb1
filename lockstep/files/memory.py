"""The memory of the machine, and the refusal, by arithmetic, of sizes that do not fit into it."""

import os
from contextlib import suppress
from pathlib import Path

from lockstep.errors import InputError

__all__ = ["in_bytes", "memory_limit", "refuse_too_large"]

CONTROL_GROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
UNKNOWN = 2**40
"""The limit in bytes where the system does not say one."""


def memory_limit() -> int:
    """Bytes that this process can have.

    It is the least of the machine's memory, the control group's limit and the process's own.
    """
    limits = [UNKNOWN, *_own_limits()]
    with suppress(AttributeError, OSError, ValueError):  # not a POSIX system
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in CONTROL_GROUP:
        with suppress(OSError, ValueError):  # no such group, or "max"
            limits.append(int(Path(file).read_text()))
    return min(limits)


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
        what: the field or file that needs them, for the message: "data.rows: 10 rows".
        needed: the least number of bytes.
    """
    limit = memory_limit()
    if needed > limit:
        raise InputError(
            f"{what}: would take at least {in_bytes(needed)} of memory, and there are "
            f"{in_bytes(limit)}"
        )


def in_bytes(count: int) -> str:
    """Bytes as a number and in a unit for people: "171,798,691,760 bytes (160 GiB)"."""
    power = min(max(count.bit_length() - 1, 0) // 10, 6)
    if power == 0:
        return f"{count:,} bytes"
    unit = "KMGTPE"[power - 1] + "iB"
    return f"{count:,} bytes ({count / 1024**power:.3g} {unit})"
