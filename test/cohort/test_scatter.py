"""Tasks over a cluster of two nodes of this machine: none is lost or done twice by a death, none is tried for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kits.cohort.scatter import TRIES, Lost, Share, room_for, scatter

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'kits-cascade[cohort]')")
SHARE = Share(cpus=1)


class Worker:
    """Notes each task that it begins; a task's name says what becomes of it."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def run(self, task: str) -> str:
        begun = self.folder / f"{task}.{time.monotonic_ns()}"
        begun.touch()
        if task.startswith("kills"):
            os.kill(os.getpid(), signal.SIGKILL)
        if task.startswith("once") and len(list(self.folder.glob(f"{task}.*"))) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if task.startswith("fails"):
            raise ZeroDivisionError(task)
        return task.upper()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    local = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    local.add_node(num_cpus=2)
    ray.init(address=local.address, log_to_driver=False)
    yield local
    ray.shutdown()
    local.shutdown()


def tries(folder: Path, task: str) -> int:
    return len(list(folder.glob(f"{task}.*")))


def test_every_task_is_done_once(cluster: Any, tmp_path: Path) -> None:
    tasks = [f"task{number}" for number in range(12)]
    results = dict(scatter(tasks, Worker, (str(tmp_path),), SHARE))
    assert [results[number] for number in range(12)] == [task.upper() for task in tasks]
    assert all(tries(tmp_path, task) == 1 for task in tasks)


def test_a_task_that_kills_its_process_is_set_aside_and_costs_no_other(cluster: Any, tmp_path: Path) -> None:
    tasks = ["a", "kills", "b", "once", "c"]
    results = dict(scatter(tasks, Worker, (str(tmp_path),), SHARE))
    assert [results[number] for number in (0, 2, 3, 4)] == ["A", "B", "ONCE", "C"]
    assert isinstance(results[1], Lost)
    assert results[1].tries == TRIES == tries(tmp_path, "kills")
    assert tries(tmp_path, "once") == 2
    assert all(tries(tmp_path, task) == 1 for task in "abc")


def test_what_a_task_raises_ends_the_run(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        list(scatter(["fails"], Worker, (str(tmp_path),), SHARE))


def test_a_run_that_is_told_to_end_does_so(cluster: Any, tmp_path: Path) -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        list(scatter(["a", "b"], Worker, (str(tmp_path),), SHARE, stop))
    assert list(scatter(["c"], Worker, (str(tmp_path),), SHARE)) == [(0, "C")]


def test_a_lost_machine_costs_no_task(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=2, resources={"doomed": 1})
    results = {}
    for number, result in scatter([f"task{n}" for n in range(10)], Slow, (str(tmp_path),), SHARE):
        results[number] = result
        if len(results) == 2:
            cluster.remove_node(node, allow_graceful=False)
    assert [results[number] for number in range(10)] == [f"TASK{n}" for n in range(10)]


class Slow(Worker):
    """Takes long enough to be in the middle of a task when its machine goes."""

    def run(self, task: str) -> str:
        time.sleep(1)
        return super().run(task)


@pytest.mark.parametrize(
    ("share", "resources", "room"),
    [
        (Share(2), {"CPU": 9}, 4),
        (Share(2, 1), {"CPU": 32, "GPU": 3}, 3),
        (Share(1, 0.5), {"CPU": 32, "GPU": 2}, 4),
        (Share(2, 1), {"CPU": 32}, 0),
    ],
)
def test_there_is_room_for_as_many_workers_as_the_scarcest_resource_holds(share, resources, room) -> None:
    assert room_for(share, resources) == room
