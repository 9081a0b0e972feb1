"""A stage of the pipeline, as a report shows it."""

from dataclasses import dataclass

__all__ = ["Fact", "Stage", "cut"]


@dataclass(frozen=True)
class Fact:
    """One line of a stage."""

    label: str
    value: str


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline."""

    name: str
    what: str
    facts: tuple[Fact, ...]


def cut(items: list[str], limit: int) -> list[str]:
    """All items up to `limit`, else the first ones, how many are left out, and the last."""
    if len(items) <= limit:
        return items
    return [*items[: limit - 1], f"... {len(items) - limit} more ...", items[-1]]
