"""A proposed name map in a few lines for the terminal."""

from collections import Counter

from lockstep.diagnose.names import Layout
from lockstep.diagnose.propose import Proposal

__all__ = ["describe_proposal"]

NAMED = 5
"""Names in a line; more are counted."""


def describe_proposal(proposal: Proposal) -> list[str]:
    """How many names are sure, by what, and what is open."""
    names = proposal.names
    turned = sum(source != Layout(name) for name, source in names.names.items())
    sure = len(names.names) + len(names.sums)
    lines = [f"{sure} parameters are sure, {turned} of them called or laid out otherwise"]
    for reason, count in Counter(proposal.reasons.values()).items():
        settled = [name for name, drawn in proposal.reasons.items() if drawn == reason]
        is_unsure = "differ" in reason
        drawn_from = reason if reason.startswith("by ") else f"by {reason}"
        lines.append(f"  {count} {drawn_from}{f': {_listed(settled)}' if is_unsure else ''}")
    outputs = len(names.forward) + len(names.batch)
    if outputs:
        lines.append(f"{outputs} outputs and batches are called or laid out otherwise")
    for side, alone in (("A", names.only_a), ("B", names.only_b)):
        if alone:
            lines.append(f"only in {side}: {_listed(sorted(alone))}")
    if proposal.open_a:
        lines.append(f"{len(proposal.open_a)} of A are open: {_listed(list(proposal.open_a))}")
    if proposal.open_b:
        lines.append(f"{len(proposal.open_b)} of B are open: {_listed(list(proposal.open_b))}")
    if proposal.open_a or proposal.open_b:
        lines.append("the file lists them as comments, with what they may be")
    return lines


def _listed(names: list[str]) -> str:
    text = ", ".join(names[:NAMED])
    return f"{text} and {len(names) - NAMED} more" if len(names) > NAMED else text
