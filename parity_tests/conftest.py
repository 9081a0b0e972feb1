"""What every rung of the ladder shares."""

import os
import tempfile

import pytest
from hypothesis import settings

# a machine that is busy elsewhere is no failure
settings.register_profile("lockstep", deadline=None)
settings.load_profile("lockstep")


def pytest_configure(config: pytest.Config) -> None:
    """One thread a process, as there is a process for every core; and what one of them compiled, the others find."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = tempfile.TemporaryDirectory(prefix="lockstep-xla-")
        config.add_cleanup(cache.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
