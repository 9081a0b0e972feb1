"""The figures of a benchmark: one JSON file with a versioned schema, checked when it is read."""

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
    """The figures of one contender: its samples, or why it has none."""

    samples: list[Seconds] = []
    """Seconds per update, one sample a round. An ensemble's updates are those of all members that
    it trained."""
    trained: int = 1
    """How many members a run trains; 0: it trains none, and computes a part of an update."""
    float64_error: float | None = None
    """Distance from the oracle in float64, of a contender that was timed."""
    differs: float | None = None
    """Distance from the oracle in float64, of a contender that computes something else."""
    skipped: str = ""
    """Why the contender did not run."""
    import_seconds: float | None = None
    first_run_seconds: float | None = None
    """Compiling, where there is any, and one run."""
    cold_seconds: float | None = None
    """The start of the process to the end of the first run."""
    peak_mib: float | None = None
    environment: dict[str, Any] = {}


class Measured(_Checked):
    """One workload. Sample i of every contender belongs to round i."""

    recipe: dict[str, Any]
    seeds: int
    updates: int
    proof_updates: int
    rounds: int
    device: str
    threads: int
    contenders: dict[str, Outcome]


class Results(_Checked):
    """Everything that one benchmark measured, and the machine that it ran on."""

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
            InputError: the file is not there, is no benchmark, has another schema version, or has a
                field that is wrong.
        """
        content = read_json(path, "not a JSON file")
        schema = content.get("schema") if isinstance(content, dict) else ""
        schema = schema if isinstance(schema, str) else ""
        kind, _, version = SCHEMA.rpartition("/")
        if schema.rpartition("/")[0] != kind:
            raise InputError(f"{path}: not a file of lockstep bench --out")
        if schema != SCHEMA:
            raise InputError(
                f"{path}: schema {schema.rpartition('/')[2]}; this lockstep reads schema {version}"
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
                samples = len(outcome.samples)
                if samples not in (0, measured.rounds):
                    raise InputError(
                        f"{path}: {name}, {contender}: {samples} samples of {measured.rounds} "
                        "rounds"
                    )
        return results


def machine() -> dict[str, Any]:
    """Processor, cores and system of this machine."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        pass  # not Linux, or a processor that does not say
    return {"processor": model, "cores": os.cpu_count(), "system": platform.platform()}
