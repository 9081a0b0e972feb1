"""Record every pair of own loops, in two processes, and judge what the diagnosis says of it."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from lockstep.backends import TWINS
from lockstep.errors import InputError
from lockstep.records.trace import Trace
from lockstep.run.workers import Report, limit_threads
from lockstep.studies.prove.own_loops.faults import LoopFault
from lockstep.studies.prove.own_loops.pairs import TRUE_CAUSES, NamelessPair
from lockstep.studies.prove.own_loops.start import map_of
from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["Answer", "LoopOutcome", "LoopProof", "PairOutcome", "prove_loops"]

PROCESSES = 2
EQUAL = ("identical", "rounding", "inconclusive")
"""Verdicts that call nothing wrong."""


class Answer(NamedTuple):
    """What the diagnosis says of two loops.

    Attributes:
        verdict: its word, or "error".
        update: of the first difference; None without one.
        stage: of the first difference; "" without one.
        causes: the keys, the first difference's first.
        texts: the causes in words; or the error.
    """

    verdict: str
    update: int | None = None
    stage: str = ""
    causes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoopOutcome:
    """What is said of a fault that is planted in side `side`, "a" or "b"."""

    fault: LoopFault
    side: str
    answer: Answer

    @property
    def is_placed(self) -> bool:
        """Whether the two are said to part at the fault's update and stage."""
        answer = self.answer
        return answer.update == self.fault.update and answer.stage in self.fault.stages

    @property
    def is_named(self) -> bool:
        """Whether the fault's cause is named first, and none that is wrong beside it; of a fault
        that is known to go without a cause, whether none is named.
        """
        cause = self.fault.cause_in(self.side)
        return self.answer.causes[:1] == ((cause,) if cause else ()) and not self.wrong_causes

    @property
    def wrong_causes(self) -> tuple[str, ...]:
        """The keys of causes that are not true."""
        true = {self.fault.cause_in(self.side), *self.fault.also}
        return tuple(key for key in self.answer.causes if key not in true)


@dataclass(frozen=True)
class PairOutcome:
    """What is said of two loops of which no cause may be named."""

    pair: NamelessPair
    answer: Answer

    @property
    def is_alarm(self) -> bool:
        """Whether a right pair is called wrong."""
        return not self.pair.odd and self.answer.verdict not in EQUAL

    @property
    def is_missed(self) -> bool:
        """Whether an odd fault is not caught."""
        return bool(self.pair.odd) and self.answer.verdict != "diverged"

    @property
    def is_named_wrongly(self) -> bool:
        """Whether a cause is named that is not true, as none has a name."""
        return bool(set(self.answer.causes) - TRUE_CAUSES.get(self.pair.odd, set()))


@dataclass(frozen=True)
class LoopProof:
    """Every outcome."""

    outcomes: tuple[LoopOutcome, ...]
    pairs: tuple[PairOutcome, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether all faults are placed and named, and of the other pairs nothing wrong is said."""
        is_right = all(outcome.is_placed and outcome.is_named for outcome in self.outcomes)
        bad = [
            pair for pair in self.pairs if pair.is_alarm or pair.is_missed or pair.is_named_wrongly
        ]
        return is_right and not bad


class _Task(NamedTuple):
    """Two loops to hold against each other; a PyTorch loop is side A of one in JAX."""

    a: Loop
    b: Loop

    @property
    def has_jax(self) -> bool:
        return "jax" in (self.a.framework, self.b.framework)


def prove_loops(
    faults: Sequence[LoopFault],
    pairs: Sequence[NamelessPair] = (),
    *,
    report: Report,
    in_turn: bool = False,
) -> LoopProof:
    """Record and diagnose every fault, planted in either side, and every other pair.

    Args:
        faults: from `lockstep.studies.prove.own_loops.faults`.
        pairs: from `lockstep.studies.prove.own_loops.pairs`.
        report: told of the progress.
        in_turn: plant each fault in one side alone, the sides in turn.

    Raises:
        InputError: a framework is not installed, or a process died.
    """
    planted = []
    for place, fault in enumerate(faults):
        sides = list(_sides(fault))
        chosen = [sides[place % len(sides)]] if in_turn else sides
        planted += [(fault, side, task) for side, task in chosen]
    tasks = [task for _, _, task in planted] + [_Task(pair.a, pair.b) for pair in pairs]
    answers = _answers(tasks, report)
    outcomes = [LoopOutcome(fault, side, answers[task]) for fault, side, task in planted]
    others = [PairOutcome(pair, answers[_Task(pair.a, pair.b)]) for pair in pairs]
    return LoopProof(tuple(outcomes), tuple(others))


def _sides(fault: LoopFault) -> Iterator[tuple[str, _Task]]:
    """The side that is wrong, and the task: both sides where the frameworks are one."""
    if fault.right.framework == fault.wrong.framework or fault.wrong.framework == "jax":
        yield "b", _Task(fault.right, fault.wrong)
    if fault.right.framework == fault.wrong.framework or fault.right.framework == "jax":
        yield "a", _Task(fault.wrong, fault.right)


def _answers(tasks: Sequence[_Task], report: Report) -> dict[_Task, Answer]:
    """What the diagnosis says of each pair of loops."""
    groups: dict[Loop | str, list[_Task]] = {}
    for task in dict.fromkeys(tasks):
        # one process alone loads JAX; a right loop is recorded once for all tasks that have it
        groups.setdefault("jax" if task.has_jax else _shared(task, tasks), []).append(task)
    in_order = sorted(groups.values(), key=lambda group: (not group[0].has_jax, -len(group)))
    answers: dict[_Task, Answer] = {}
    total = sum(map(len, in_order))
    with (
        patch.dict(os.environ, limit_threads(1)),
        ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool,
    ):
        futures: dict[Future[list[Answer]], list[_Task]] = {
            pool.submit(_judge, group): group for group in in_order
        }
        try:
            for future in as_completed(futures):
                answers |= zip(futures[future], future.result())
                report("loops", len(answers), total)
        except BrokenProcessPool as error:
            raise InputError("a process that trains own loops died") from error
        finally:
            pool.shutdown(cancel_futures=True)
    return answers


def _shared(task: _Task, tasks: Sequence[_Task]) -> Loop:
    """The loop of a task that more tasks have."""
    return max(task, key=lambda loop: sum(loop in other for other in tasks))


def _judge(tasks: Sequence[_Task]) -> list[Answer]:
    """The answers to tasks, each loop recorded once. Runs in a process of its own."""
    traces: dict[Loop, Trace] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "loop.trace"
        return [_answer(task, traces, path) for task in tasks]


def _answer(task: _Task, traces: dict[Loop, Trace], path: Path) -> Answer:
    from lockstep.diagnose.pairs import diagnose

    try:
        for loop in task:
            if loop not in traces:
                traces[loop] = _trainer(loop.framework)(loop, path)
        names = map_of(task.a) if task.a.framework != task.b.framework else None
        diagnosis = diagnose(traces[task.a], traces[task.b], names=names)
    except ImportError as error:
        raise InputError(str(error)) from error
    except Exception as error:  # an answer too, and no other pair's
        return Answer("error", texts=(f"{type(error).__name__}: {error}",))
    causes = [*([diagnosis.cause] if diagnosis.cause else []), *diagnosis.further]
    first = diagnosis.first
    return Answer(
        diagnosis.verdict,
        None if first is None else first.update,
        "" if first is None else first.stage,
        tuple(cause.key for cause in causes),
        tuple(cause.text for cause in causes),
    )


def _trainer(framework: str) -> Callable[[Loop, Path], Trace]:
    train: Callable[[Loop, Path], Trace] = import_module(
        f"{TWINS[framework]}.proof.own_loops.loop"
    ).train
    return train
