"""Standard output and error that outlast their reader.

The command goes on when the reader leaves, and its exit status is what it found.
"""

import errno
import io
import os
import sys
from typing import Any

__all__ = ["flush_output", "outlast_readers"]


class _Lasting(io.FileIO):
    """A descriptor whose writes do not fail.

    After the first failure it leads nowhere, and `failure` holds the error, unless the reader left.
    """

    failure: OSError | None = None

    def write(self, content: Any) -> int:
        """Write bytes, and return how many were written."""
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
    """Replace standard output and error by streams that outlast their reader.

    A closed one leads nowhere from the start.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free one: this descriptor
            os.set_inheritable(opened, True)
    sys.stdout = _lasting(1, sys.stdout)
    sys.stderr = _lasting(2, sys.stderr)


def flush_output() -> OSError | None:
    """Flush standard output, and return the error that kept it from being written, or None."""
    sys.stdout.flush()
    raw = getattr(sys.stdout, "buffer", None)
    raw = getattr(raw, "raw", raw)
    return raw.failure if isinstance(raw, _Lasting) else None


def _lasting(descriptor: int, stream: Any) -> Any:
    raw = _Lasting(descriptor, "w", closefd=False)
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace")
    stream.flush()
    unbuffered = stream.write_through  # python -u
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
