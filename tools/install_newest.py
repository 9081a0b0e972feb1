"""Installs this project with the newest releases that pyproject.toml allows into the environment
that runs it.

`make latest` runs it, with the standard library and pip alone. It leaves out the packages of
PyTorch's CUDA build that a CPU does not load, because none of PyTorch's libraries is linked against
them. Where the index offers a CPU build, nothing is left out.
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
    """name==version of each package that pip resolved, but this project and what is not loaded."""
    packages = [
        item["metadata"] for item in report["install"] if "dir_info" not in item["download_info"]
    ]
    return [f"{p['name']}=={p['version']}" for p in packages if not NOT_LOADED.fullmatch(p["name"])]


def main() -> None:
    """Resolve the versions, then install them without resolving again."""
    resolve = [*PIP, "install", "--dry-run", "--ignore-installed", "--report", "-"]
    resolve += ["--editable", ".[dev]"]
    report = json.loads(subprocess.run(resolve, check=True, stdout=subprocess.PIPE).stdout)
    subprocess.run([*PIP, "install", "--no-compile", "--no-deps", *pins(report)], check=True)
    subprocess.run([*PIP, "install", "--no-deps", "--editable", "."], check=True)


if __name__ == "__main__":
    main()
