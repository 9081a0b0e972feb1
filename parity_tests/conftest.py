"""What every rung of the ladder shares."""

import os
import tempfile

import pytest
from hypothesis import settings

from lockstep.backends import BACKENDS
from lockstep.commands.options import keep_compiled

# a machine that is busy elsewhere is no failure
settings.register_profile("lockstep", deadline=None)
settings.load_profile("lockstep")


def pytest_configure(config: pytest.Config) -> None:
    """One thread a process, as there is a process for every core; and what one of them compiled,
    the others find.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        cache = tempfile.TemporaryDirectory(prefix="lockstep-cache-")
        config.add_cleanup(cache.cleanup)
        os.environ["XDG_CACHE_HOME"] = cache.name
        keep_compiled()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each framework in turn."""
    return str(request.param)
