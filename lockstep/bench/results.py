"""What a benchmark found: one JSON file with a versioned schema, checked when it is read."""

import json
import os
import platform
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lockstep.errors import InputError
from lockstep.files.input_file import read_json
from lockstep.files.outputs import json_document, write_file

__all__ = ["RESULTS", "SCHEMA", "Measured", "Outcome", "Results", "machine"]

SCHEMA = "lockstep.bench/2"
RESULTS = json_document("lockstep.bench")

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Checked(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, ser_json_inf_nan="constants"
    )


class Outcome(_Checked):
    """What one contender did: `samples`, or why there are none: `skipped`, or `differs`, its
    distance from the oracle.

    `samples` are seconds per update, one a round; of an ensemble the updates of all the members
    that it `trained`; 0 trains none. `cold_seconds` is from the start of the process to the end of
    the first run; `first_run_seconds` is compiling, where there is any, and one run.
    """

    samples: list[Seconds] = []
    trained: int = 1
    float64_error: float | None = None
    differs: float | None = None
    skipped: str = ""
    import_seconds: float | None = None
    first_run_seconds: float | None = None
    cold_seconds: float | None = None
    peak_mib: float | None = None
    environment: dict[str, Any] = {}


class Measured(_Checked):
    """One workload: every contender's sample number i was taken in the same round."""

    recipe: dict[str, Any]
    seeds: int
    updates: int
    proof_updates: int
    rounds: int
    device: str
    threads: int
    contenders: dict[str, Outcome]


class Results(_Checked):
    """All that one benchmark measured, and on what."""

    schema_version: Literal["lockstep.bench/2"] = Field(default="lockstep.bench/2", alias="schema")
    lockstep: str
    machine: dict[str, Any]
    workloads: dict[str, Measured]

    def save(self, path: Path) -> None:
        """Write to one file.

        Raises:
            InputError: the file cannot be written.
        """
        write_file(path, self.model_dump_json(by_alias=True, indent=2).encode(), RESULTS)

    @staticmethod
    def load(path: Path) -> "Results":
        """Read what `save` wrote.

        Raises:
            InputError: not there, not a benchmark, of another schema version, or with a field that
            is wrong.
        """
        content = read_json(path, "not a JSON file")
        found = content.get("schema") if isinstance(content, dict) else ""
        found = found if isinstance(found, str) else ""
        kind, _, version = SCHEMA.rpartition("/")
        if found.rpartition("/")[0] != kind:
            raise InputError(f"{path}: not a file of lockstep bench --out")
        if found != SCHEMA:
            raise InputError(
                f"{path}: schema {found.rpartition('/')[2]}; this lockstep reads schema {version}"
            )
        try:
            results = Results.model_validate_json(json.dumps(content))
        except ValidationError as error:
            fault = error.errors()[0]
            raise InputError(
                f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}"
            ) from None
        for name, measured in results.workloads.items():
            for contender, outcome in measured.contenders.items():
                if (taken := len(outcome.samples)) not in (0, measured.rounds):
                    raise InputError(
                        f"{path}: {name}, {contender}: {taken} samples of {measured.rounds} rounds"
                    )
        return results


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        pass  # not Linux, or a processor that does not say
    return {"processor": model, "cores": os.cpu_count(), "system": platform.platform()}
