"""Tasks over the workers of a Ray cluster, one at a time each; what a worker's death costs is told and bounded.

Ray starts no task twice by itself here: with its retries a scan that kills its process would be tried for ever. A
worker that died, or gave up, is replaced. The task that it had goes to the back of the queue, at most ``TRIES`` times
in all; where its machine was lost, that does not count, for the task is not to blame.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

TRIES = 2
WAIT_SECONDS = 1.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """What one worker takes of a machine.

    Args:
        cpus: cores; networks, readers and writers of a worker share them.
        gpus: GPUs, or a part of one.
    """

    cpus: float = 2.0
    gpus: float = 0.0


class GaveUp(Exception):
    """What a worker raises that can do nothing more, as after its GPU was lost: another is to do its task."""


@dataclass(frozen=True)
class Lost:
    """Why a task was set aside: each of its ``tries`` ended with its worker's death, or the last with its giving up."""

    tries: int
    reason: str
    gave_up: bool = False


@dataclass
class _Pool:
    """Workers and what each is at."""

    start: Callable[[], Any]
    busy: dict[Any, tuple[Any, int]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)

    def give(self, number: int, task: Any) -> None:
        """Let an idle worker, or a new one, do a task."""
        worker = self.idle.pop() if self.idle else self.start()
        self.busy[worker.run.remote(task)] = worker, number


def scatter(
    tasks: Sequence[Any],
    worker: type,
    arguments: tuple[Any, ...],
    share: Share,
    go_on: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Any | Lost]]:
    """Do tasks on the cluster that ``ray.init`` connected to; give each one's number with its result, as they come.

    No more tasks are on their way than there is room for workers, so memory does not grow with their number.

    Args:
        tasks: what ``worker.run`` takes, each small.
        worker: a class whose ``run(task)`` returns a result; it is made once a process, with ``arguments``.
        arguments: of the worker.
        share: what a worker needs.
        go_on: called about once a second; what it raises ends all workers.

    Raises:
        Exception: what else than ``GaveUp`` a worker's making or ``run`` raises, since a task's own failure is for
            ``run`` to return.
    """
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

    deaths = (RayActorError, NodeDiedError, OutOfMemoryError, WorkerCrashedError)
    remote: Any = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=0, max_task_retries=0)(worker)
    pool = _Pool(lambda: remote.remote(*arguments))
    waiting, tries = deque(range(len(tasks))), Counter[int]()
    try:
        while waiting or pool.busy:
            go_on()
            room = max(1, room_for(share, ray.cluster_resources())) - len(pool.busy)
            for _ in range(min(room, len(waiting))):
                number = waiting.popleft()
                pool.give(number, tasks[number])
            ready, _ = ray.wait(list(pool.busy), timeout=WAIT_SECONDS)
            for done in ready:
                who, number = pool.busy.pop(done)
                try:
                    yield number, ray.get(done)
                    pool.idle.append(who)
                except (RayTaskError, *deaths) as error:
                    cause = error.cause if isinstance(error, RayTaskError) else error
                    gave_up = isinstance(cause, GaveUp)
                    if isinstance(error, RayTaskError) and not gave_up:
                        raise cause from error
                    ray.kill(who)  # one that only cannot be reached would do the task beside another
                    reason = " ".join(str(cause).split())[:300]
                    if not _machine_lost(cause):
                        tries[number] += 1
                    if tries[number] >= TRIES:
                        yield number, Lost(tries[number], reason, gave_up)
                    else:
                        log.warning("A worker ended (%s); its task is tried again by another.", reason)
                        waiting.append(number)
    finally:
        for who in [*pool.idle, *(who for who, _ in pool.busy.values())]:
            ray.kill(who)


def room_for(share: Share, resources: dict[str, float]) -> int:
    """How many workers a cluster has room for, as it is now."""
    needs = [(name, need) for name, need in (("CPU", share.cpus), ("GPU", share.gpus)) if need]
    rooms = [int(resources.get(name, 0.0) / need + 1e-6) for name, need in needs]  # a fifth fits into one five times
    return min(rooms, default=1)


def _machine_lost(death: Exception) -> bool:
    """Whether a worker died with its machine, not by what it did."""
    import ray
    from ray.exceptions import NodeDiedError

    if isinstance(death, NodeDiedError):
        return True
    text = str(death)
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return any(node["NodeID"] in text for node in ray.nodes() if node["NodeID"] not in alive)
