"""Until when a side trains what the other side leaves as it is."""

from lockstep.diagnose.between.pair import LoopPair, LoopSide

__all__ = ["training_words"]


def training_words(pair: LoopPair) -> str:
    """What one side trains and the other does not, after a semicolon; "" where there is none."""
    for mine, other in ((pair.mine, pair.other), (pair.other, pair.mine)):
        of_mine, of_other = _by_module(mine), _by_module(other)
        modules = {
            module: updates
            for module, updates in of_mine.items()
            if any(updates) and module in of_other and not any(of_other[module])
        }
        if not modules:
            continue
        order = mine.layers
        names = sorted(modules, key=lambda name: order.index(name) if name in order else len(order))
        listed = ", ".join(names[:-1]) + f" and {names[-1]}" if names[1:] else names[0]
        last = max(moved for updates in modules.values() for moves in updates for moved in moves)
        if last + 1 >= mine.trace.header.get("updates", 0):
            return f"; {mine.name} trains {listed}, {other.name} does not"
        return f"; {mine.name} trains {listed} until update {last + 1}"
    return ""


def _by_module(side: LoopSide) -> dict[str, list[list[int]]]:
    """Layer -> for each of its parameters, the updates at which it moves."""
    modules: dict[str, list[list[int]]] = {}
    for name, moved in _changes(side).items():
        modules.setdefault(name.rpartition(".")[0] or name, []).append(moved)
    return modules


def _changes(side: LoopSide) -> dict[str, list[int]]:
    """Parameter -> the updates at which it was recorded to move."""
    changes: dict[str, list[int]] = {}
    before = side.parameters(0)
    for update in range(int(side.trace.header.get("updates", 0))):
        after = side.parameters(update + 1)
        for name, array in after.items():
            if name in side.buffers or name not in before or "running_" in name:
                continue
            moved = changes.setdefault(name, [])
            if (array != before[name]).any():
                moved.append(update)
        before = after or before
    return changes
