"""Tasks over the workers of a Ray cluster, one at a time each; what a worker's death costs is told and bounded.

Ray starts no task twice by itself here: with its retries a scan that kills its process would be tried for ever. A
worker that died, or gave up, is replaced. The task that it had goes to the back of the queue, at most ``TRIES`` times
in all. Where its machine was lost, that does not count, for the task is hardly to blame; but ``MACHINES`` of them are
enough.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TRIES = 2
MACHINES = 5
WAIT_SECONDS = 1.0
TOLD_SECONDS = 60.0
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

    @classmethod
    def of(cls, nodes: Sequence[Mapping[str, Any]], cores: float, gpus: float = 1.0) -> Share:
        """A GPU, or a part of one, where there are some, else cores; no more of them than the machines have.

        Args:
            nodes: of the cluster, as ``ray.nodes`` tells of them.
            cores: that are wished for.
            gpus: that are wished for; 0: GPUs are left alone.
        """
        machines = [node["Resources"] for node in nodes if node["Alive"]]
        if with_gpus := [one for one in machines if gpus and one.get("GPU")]:
            cpus = min([cores, *(one.get("CPU", 0.0) / one["GPU"] * gpus for one in with_gpus)])
            return cls(cpus if cpus < 1 else int(cpus), gpus)  # Ray takes no other parts
        largest = max((one.get("CPU", 0.0) for one in machines), default=0.0)
        return cls(min(cores, largest or cores))


class GaveUp(Exception):
    """What a worker raises that can do nothing more, as after its GPU was lost: another is to do its task."""


@dataclass(frozen=True)
class Lost:
    """Why a task was set aside: each of its ``tries`` ended with its worker's death, or, at last, its giving up."""

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

    def let_go(self, kill: Callable[[Any], None]) -> None:
        """End the idle workers."""
        while self.idle:
            kill(self.idle.pop())


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
    waiting, tries, machines = deque(range(len(tasks))), Counter[int](), Counter[int]()
    try:
        while waiting or pool.busy:
            go_on()
            room = max(1, room_for(share, ray.nodes())) - len(pool.busy) if waiting else 0
            for _ in range(min(room, len(waiting))):
                number = waiting.popleft()
                pool.give(number, tasks[number])
            if not waiting:  # others may need the cores, not least a worker of ours that waits for them
                pool.let_go(ray.kill)
            for done in _ready(list(pool.busy)):
                who, number = pool.busy.pop(done)
                try:
                    result = ray.get(done)
                    pool.idle.append(who)
                    yield number, result
                except (RayTaskError, *deaths) as error:
                    cause = error.cause if isinstance(error, RayTaskError) else _told(who, error, go_on)
                    ray.kill(who)  # one that only cannot be reached would do the task beside another
                    if not isinstance(cause, (GaveUp, *deaths)):
                        raise cause from error
                    reason = " ".join(str(cause).split())[:300]
                    (machines if _machine_lost(cause) else tries)[number] += 1
                    if tries[number] >= TRIES or machines[number] >= MACHINES:
                        yield number, Lost(tries[number] + machines[number], reason, isinstance(cause, GaveUp))
                    else:
                        log.warning("A worker ended (%s); its task is tried again by another.", reason)
                        waiting.append(number)
    finally:
        pool.idle += [who for who, _ in pool.busy.values()]
        pool.let_go(ray.kill)


def _ready(waited_for: list[Any]) -> list[Any]:
    """Those that are ready, once one is, or after about a second."""
    import ray

    ready, _ = ray.wait(waited_for, timeout=WAIT_SECONDS)
    if ready:  # others came with it; asking for one at a time is slow where there are hundreds
        ready, _ = ray.wait(waited_for, num_returns=len(waited_for), timeout=0)
    return list(ready)


def room_for(share: Share, nodes: Sequence[Mapping[str, Any]]) -> int:
    """How many workers a cluster has room for, as it is now: each machine by itself, for a worker is on one.

    Args:
        share: what a worker needs.
        nodes: as ``ray.nodes`` tells of them.
    """
    needs = [(name, need) for name, need in (("CPU", share.cpus), ("GPU", share.gpus)) if need]
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    return sum(int(min((one.get(name, 0.0) / need + 1e-6 for name, need in needs), default=1)) for one in machines)


def _told(worker: Any, death: Exception, go_on: Callable[[], None]) -> Exception:
    """Why a worker ended: of one that only cannot be reached Ray says so a little later, when it knows."""
    import ray
    from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError

    until = time.monotonic() + TOLD_SECONDS
    while isinstance(death, ActorUnavailableError) and time.monotonic() < until:
        go_on()
        try:
            ray.get(worker.__ray_ready__.remote(), timeout=WAIT_SECONDS)
            break  # it is there again
        except GetTimeoutError:
            continue
        except RayActorError as told:
            death = told
            time.sleep(0.1)
    return death


def _machine_lost(death: Exception) -> bool:
    """Whether a worker died with its machine, not by what it did."""
    import ray
    from ray.exceptions import NodeDiedError

    if isinstance(death, NodeDiedError):
        return True
    text = str(death)
    if "node has died" in text:
        return True
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return any(node["NodeID"] in text for node in ray.nodes() if node["NodeID"] not in alive)
