"""Installs this project with the newest releases that pyproject.toml allows into the environment
that runs it.

`make latest` runs it, with the standard library and pip alone. Left out is what PyTorch's CUDA
build does not load on a CPU: none of its libraries is linked against it. Where the index offers a
CPU build, nothing is left out.
"""

import json
import re
import subprocess
import sys
from typing import Any

NOT_LOADED = re.compile(
    r"triton|cuda[-_](bindings|pathfinder|toolkit)|nvidia[-_](cusolver|nvtx)([-_]cu\d+)?", re.I
)
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]


def pins(report: dict[str, Any]) -> list[str]:
    """What to install of what pip resolved: name==version, without this project and what is not
    loaded.
    """
    packages = [
        item["metadata"] for item in report["install"] if "dir_info" not in item["download_info"]
    ]
    return [f"{p['name']}=={p['version']}" for p in packages if not NOT_LOADED.fullmatch(p["name"])]


def main() -> None:
    """Resolve, then install without asking for dependencies again."""
    resolve = [
        *PIP,
        "install",
        "--dry-run",
        "--ignore-installed",
        "--report",
        "-",
        "--editable",
        ".[dev]",
    ]
    report = json.loads(subprocess.run(resolve, check=True, stdout=subprocess.PIPE).stdout)
    subprocess.run([*PIP, "install", "--no-compile", "--no-deps", *pins(report)], check=True)
    subprocess.run([*PIP, "install", "--no-deps", "--editable", "."], check=True)


if __name__ == "__main__":
    main()
