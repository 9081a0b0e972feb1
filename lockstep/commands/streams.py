"""Standard output and error that outlast their reader: the command goes on, and its exit status is
what it found.
"""

import errno
import io
import os
import sys
from typing import Any

__all__ = ["flush_output", "outlast_readers"]


class _Lasting(io.FileIO):
    """A descriptor whose writes do not fail: after the first that would, it leads nowhere.

    `failure` says why, where that is not a reader who has left.
    """

    failure: OSError | None = None

    def write(self, content: Any) -> int:
        """Write bytes; returns how many were, as the base class."""
        try:
            return super().write(content)
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.failure = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(content).nbytes


def outlast_readers() -> None:
    """Put such streams in the place of standard output and error; one that is closed leads nowhere
    from the start.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free
    sys.stdout, sys.stderr = _lasting(1, sys.stdout), _lasting(2, sys.stderr)


def flush_output() -> OSError | None:
    """Write what is still held back; returns why standard output was not written, or None."""
    sys.stdout.flush()
    raw = getattr(sys.stdout, "buffer", None)
    raw = getattr(raw, "raw", raw)
    return raw.failure if isinstance(raw, _Lasting) else None


def _lasting(descriptor: int, stream: Any) -> Any:
    raw = _Lasting(descriptor, "w", closefd=False)
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace")
    stream.flush()
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # as python -u does
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
