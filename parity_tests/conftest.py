"""What every rung of the ladder shares."""

import os
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import settings

from lockstep.backends import BACKENDS
from lockstep.commands.options import keep_compiled

# a machine that is busy elsewhere is no failure
settings.register_profile("lockstep", deadline=None)
settings.load_profile("lockstep")

MOST_COMPILED = 2**30
"""Bytes of compiled programs that stay from one session to the next."""


def pytest_configure(config: pytest.Config) -> None:
    """Every process has one thread, as there is a process for every core, and finds what another
    has compiled, in this session or in an earlier one.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    cache = tempfile.TemporaryDirectory(prefix="lockstep-cache-")
    config.add_cleanup(cache.cleanup)
    os.environ["XDG_CACHE_HOME"] = cache.name
    if config.pluginmanager.has_plugin("cacheprovider") and config.cache is not None:
        compiled = config.cache.mkdir("xla")
        drop_damaged(compiled)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(compiled)
    keep_compiled()


def drop_damaged(folder: Path) -> None:
    """Remove what a killed process left half-written, which JAX would warn of, and a cache that
    has grown too large.
    """
    entries = [path for path in folder.iterdir() if path.is_file()]
    is_full = sum(path.stat().st_size for path in entries) > MOST_COMPILED
    for path in entries:
        if is_full or is_damaged(path):
            path.unlink(missing_ok=True)


def is_damaged(path: Path) -> bool:
    """Whether a compiled program cannot be read."""
    try:
        zlib.decompress(path.read_bytes())
    except zlib.error:
        return True
    return False


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each framework in turn."""
    return str(request.param)
