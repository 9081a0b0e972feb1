"""The processes that lockstep starts: none imports what happens to lie in the present folder."""

import os
import sys
from pathlib import Path

__all__ = ["child_environment"]

ROOT = Path(__file__).resolve().parent.parent
"""The folder from which lockstep and the twins are imported."""


def child_environment() -> dict[str, str]:
    """The variables of a process that runs `python -m`.

    The present folder is not on its path, nor on that of a process that it starts. What the user
    has in PYTHONPATH stays, but for an empty entry, by which Python means the present folder and
    people mean nothing.
    """
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if not _is_installed():
        paths.append(str(ROOT))
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return (
        others | {"PYTHONSAFEPATH": "1"} | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
    )


def _is_installed() -> bool:
    """Whether this lockstep is found without the folder that `python -m` or a script puts first."""
    lasting = sys.path if sys.flags.safe_path else sys.path[1:]
    return str(ROOT) in map(os.path.realpath, lasting)
