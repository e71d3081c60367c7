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


class Held(Worker):
    """Notes on which machine it begins a task; it does not end the first while the folder holds ``hold``."""

    def run(self, task: str) -> str:
        node = ray.get_runtime_context().get_node_id()
        (self.folder / f"{task}.{node}").touch()
        while task == "first" and (self.folder / "hold").exists():
            time.sleep(0.05)
        return task.upper()


@pytest.mark.parametrize("enough", [3, 2])
def test_a_lost_machine_costs_no_task_unless_they_are_many(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    """Two machines are lost one after the other, each in the midst of the first task, for which no other has room."""
    monkeypatch.setattr("kits.cohort.scatter.MACHINES", enough)
    (tmp_path / "hold").touch()
    nodes = [cluster.add_node(num_cpus=1, num_gpus=1)]

    def lose_a_machine() -> None:
        begun = tries(tmp_path, "first")
        if begun == len(nodes) < 3:
            cluster.remove_node(nodes[-1], allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1, num_gpus=1))
        elif begun == 3:  # not before: a worker can outlive its machine's raylet for long enough to answer
            (tmp_path / "hold").unlink(missing_ok=True)

    results = dict(scatter(["first", "b", "c"], Held, (str(tmp_path),), Share(cpus=1, gpus=1), lose_a_machine))
    cluster.remove_node(nodes[-1])
    assert (results[1], results[2]) == ("B", "C")
    if enough == 3:
        assert results[0] == "FIRST"
        assert tries(tmp_path, "first") == 3
    else:
        assert isinstance(results[0], Lost)
        assert results[0].tries == 2 == tries(tmp_path, "first")


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_waits_for_cores_gets_those_of_idle_ones(tmp_path: Path) -> None:
    hog = ray.remote(num_cpus=1)(Worker).remote(str(tmp_path))
    ray.get(hog.run.remote("hog"))  # one machine has a single core left, though room for two is counted
    assert room_for(Share(cpus=2), ray.nodes()) == 2
    tasks = [f"task{number}" for number in range(4)]
    assert sorted(scatter(tasks, Worker, (str(tmp_path),), Share(cpus=2))) == [
        (number, f"TASK{number}") for number in range(4)
    ]
    ray.kill(hog)


def machines(*resources: dict[str, float]) -> list[dict[str, Any]]:
    return [{"Alive": True, "Resources": one} for one in resources]


@pytest.mark.parametrize(
    ("share", "nodes", "room"),
    [
        (Share(2), machines({"CPU": 9}), 4),
        (Share(2), machines({"CPU": 3}, {"CPU": 3}, {"CPU": 1}), 2),
        (Share(2, 1), machines({"CPU": 32, "GPU": 3}), 3),
        (Share(1, 0.2), machines({"CPU": 32, "GPU": 2}), 10),
        (Share(2, 1), machines({"CPU": 32}, {"CPU": 2, "GPU": 8}), 1),
        (Share(2), [*machines({"CPU": 2}), {"Alive": False, "Resources": {"CPU": 16}}], 1),
    ],
)
def test_there_is_room_for_as_many_workers_as_each_machines_scarcest_resource_holds(share, nodes, room) -> None:
    assert room_for(share, nodes) == room


@pytest.mark.parametrize(
    ("nodes", "cores", "gpus", "share"),
    [
        (machines({"CPU": 16}, {"CPU": 4}), 8, 1, Share(8)),
        (machines({"CPU": 1}), 2, 1, Share(1)),  # else no worker would ever begin
        (machines({}, {"CPU": 16, "GPU": 4}), 8, 1, Share(4, 1)),
        (machines({"CPU": 10, "GPU": 4}), 8, 1, Share(2, 1)),  # Ray takes no 2.5 cores
        (machines({"CPU": 10, "GPU": 4}), 8, 0, Share(8)),
        (machines({"CPU": 2, "GPU": 8}), 2, 1, Share(0.25, 1)),
        (machines({"CPU": 16, "GPU": 1}), 2, 0.5, Share(2, 0.5)),
    ],
)
def test_a_worker_takes_a_gpu_or_cores_but_no_more_than_machines_have(nodes, cores, gpus, share) -> None:
    assert Share.of(nodes, cores, gpus) == share
