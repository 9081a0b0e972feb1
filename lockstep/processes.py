"""The environment of the processes that lockstep starts: none imports from the present folder."""

import os
import sys
from pathlib import Path

__all__ = ["child_environment"]

ROOT = Path(__file__).resolve().parent.parent
"""The folder from which lockstep and the twins are imported."""


def child_environment() -> dict[str, str]:
    """The environment variables of a process that runs `python -m`.

    The present folder is not on its path, nor on that of a process that it starts. The user's
    PYTHONPATH stays, but for an empty entry, by which Python means the present folder and people
    mean nothing.
    """
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if not _is_installed():
        paths.append(str(ROOT))
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["PYTHONSAFEPATH"] = "1"
    if paths:
        variables["PYTHONPATH"] = os.pathsep.join(paths)
    return variables


def _is_installed() -> bool:
    """Whether Python finds this lockstep without the folder that it puts first for `python -m`."""
    folders = sys.path if sys.flags.safe_path else sys.path[1:]
    return str(ROOT) in map(os.path.realpath, folders)
