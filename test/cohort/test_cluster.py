"""Cases over a Ray cluster of two nodes of this machine: whatever dies, none is lost, done twice or half-written."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from kits.batch.record import FOLDER
from kits.batch.shards import Shard
from kits.cohort.records import main as merge
from test.helpers.threshold import labels_in, phantom

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'kits-cascade[cohort]')")
ROOT = Path(__file__).resolve().parents[2]
NAMES = ["case", "dies0", "dies1", "dies3", "kills"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small scans, each with another tumour, and one that is none; their names are of ``test.helpers.doomed``."""
    folder = tmp_path_factory.mktemp("scans")
    for number, name in enumerate(NAMES):
        hu, _ = phantom(shape=(12, 128, 160), tumour_mm=6.0 + number)
        image = sitk.GetImageFromArray(hu)
        image.SetSpacing((0.8, 0.8, 3.0))
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    (folder / "damaged.nii.gz").write_bytes(b"no scan")
    return folder


def command(scans: Path, out: Path, weights: Path, *options: str) -> list[str | Path]:
    return [
        sys.executable, "-m", "kits", "segment", "--input", scans, "--output", out, "--weights", weights,
        "--device", "cpu", "--engine", "torch", "--precision", "fp32", "--mode", "paper",
        "--report", out / "report.json", *options,
    ]  # fmt: skip


def segment(scans: Path, out: Path, weights: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(scans, out, weights, *options), cwd=ROOT, capture_output=True, text=True, timeout=1800
    )


def labels(out: Path) -> dict[str, np.ndarray]:
    """Label maps by name, without those that were set aside and what writers that were killed left hidden."""
    names = sorted(path.name for path in out.glob("[!.]*.nii.gz"))
    return {name: labels_in(out / name) for name in names if ".stale." not in name}


@pytest.fixture(scope="module")
def sequential(scans: Path, threshold_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sequential")
    run = segment(scans, out, threshold_weights)
    assert run.returncode == 1, run.stderr
    assert len(labels(out)) == len(NAMES)
    return out


def same(ours: Path, theirs: Path, without: set[str] = frozenset()) -> bool:
    """Whether two folders hold the same label maps, and records of just these; but for some cases in ours."""
    expected = {name: one for name, one in labels(theirs).items() if name.partition(".")[0] not in without}
    found = labels(ours)
    assert {f"{name}.json" for name in found} == records(ours).keys()
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in found)


def report_of(out: Path) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads((out / "report.json").read_text())}


def records(out: Path) -> dict[str, tuple[int, bytes]]:
    """When each case's record was written, and what it says."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (out / FOLDER).glob("[!.]*.json")}


def workers() -> list[int]:
    """Processes for cases of the cluster that this process started; there may be others on the machine."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listing.splitlines()[1:]]
    parent = {int(row[0]): int(row[1]) for row in rows}

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parent and is_ours(parent[pid]))

    return [int(row[0]) for row in rows if row[-1].startswith("ray::CaseWorker") and is_ours(int(row[0]))]


def two_nodes() -> Any:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    return cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    local = two_nodes()
    yield local
    local.shutdown()


def on(cluster: Any, *options: str) -> tuple[str, ...]:
    return (f"--ray={cluster.address}", "--worker-cores=1", *options)


def doomed(who: str, scans: Path, out: Path, weights: Path, *options: str) -> list[str | Path]:
    """The command line of a run whose workers, or whose driver, die."""
    python, _, _, _, *rest = command(scans, out, weights, *options)  # -m kits segment
    return [python, "-m", "test.helpers.doomed", who, *rest]


def test_workers_that_die_at_any_step_cost_no_case_but_one_that_kills_each(
    scans: Path, threshold_weights: Path, sequential: Path, cluster: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "kills.nii.gz").write_bytes(b"of an earlier run")
    run = subprocess.run(
        doomed("workers", scans, out, threshold_weights, *on(cluster)),
        cwd=ROOT, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert run.returncode == 1, run.stderr
    assert same(out, sequential, {"kills"}), run.stderr
    assert (out / "kills.stale.nii.gz").read_bytes() == b"of an earlier run"

    reports, theirs = report_of(out), report_of(sequential)
    assert {name for name, one in reports.items() if one["status"] != "done"} == {"kills", "damaged"}
    assert f"{scans / 'kills.nii.gz'}: its process ended 2 times" in reports["kills"]["error"]
    for name in set(NAMES) - {"kills"}:
        assert [reports[name][side] for side in ("left", "right")] == [theirs[name][side] for side in ("left", "right")]

    begun, ended = (
        {name: len(list((tmp_path / "notes").glob(f"{name}.{what}.*"))) for name in (*NAMES, "damaged")}
        for what in ("begun", "ended")
    )
    assert begun == {name: 2 if name.startswith(("dies", "kills")) else 1 for name in begun}
    assert ended == {name: int(name != "kills") for name in ended}


def test_workers_killed_at_random_moments_leave_whole_files_and_what_is_left_is_done_by_the_next_run(
    scans: Path, threshold_weights: Path, sequential: Path, cluster: Any, tmp_path: Path
) -> None:
    """Which case a kill meets is chance; one that is met twice is set aside, and done by the next run."""
    expected = labels(sequential)
    run = subprocess.Popen(
        command(scans, tmp_path, threshold_weights, *on(cluster, "--skip-existing")), cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    chance, killed = random.Random(5), set[int]()
    while run.poll() is None:
        time.sleep(0.1)
        if len(killed) < 4 and (found := sorted(set(workers()) - killed)):
            time.sleep(4 * chance.random() if killed else 0)
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(victim := chance.choice(found), signal.SIGKILL)
                killed.add(victim)
            assert all(np.array_equal(one, expected[name]) for name, one in labels(tmp_path).items())
    assert run.returncode == 1
    assert killed
    set_aside = {name for name, one in report_of(tmp_path).items() if "its process ended 2 times" in one["error"]}
    assert len(set_aside) <= len(killed) // 2
    assert same(tmp_path, sequential, set_aside)

    before = records(tmp_path)
    run = segment(scans, tmp_path, threshold_weights, *on(cluster, "--skip-existing"))
    assert run.returncode == 1, run.stderr
    assert same(tmp_path, sequential), run.stderr
    assert records(tmp_path).items() >= before.items(), "what was done is left alone"
    assert not list(tmp_path.rglob(".partial-*"))


def test_shards_together_do_each_case_once_and_their_records_are_one_table(
    scans: Path, threshold_weights: Path, sequential: Path, tmp_path: Path, capsys
) -> None:
    for share in ("1/2", "2/2"):
        assert segment(scans, tmp_path, threshold_weights, f"--shard={share}").returncode in (0, 1)
    assert same(tmp_path, sequential)
    assert merge([str(tmp_path)]) == 0
    assert f"{len(NAMES)} cases" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == NAMES
    assert all(
        row["status"] == "done" and row["left_kidney_with_masses_ml"] + row["right_kidney_with_masses_ml"] > 0
        for row in rows
    )
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    query = f"SELECT count(*), sum(left_kidney_with_masses_ml) FROM '{tmp_path}/manifest.parquet'"
    count, sum_ml = duckdb.sql(query).fetchone()
    assert count == len(NAMES)
    assert sum_ml == pytest.approx(sum(row["left_kidney_with_masses_ml"] for row in rows))
    (line,) = re.findall(r'^duckdb -c "(.+)"$', (ROOT / "docs" / "cohorts.md").read_text(), re.MULTILINE)
    found = duckdb.sql(line.replace("OUT/", f"{tmp_path}/").replace("> 100", "> 0")).fetchall()
    assert found == sorted(
        ((row["name"], row["left_tumour_ml"]) for row in rows if row["left_tumour_ml"] > 0), key=lambda one: -one[1]
    )


def test_a_folder_without_records_is_a_sentence(tmp_path: Path, capsys) -> None:
    assert merge([str(tmp_path)]) == 2
    assert "holds no record" in capsys.readouterr().err
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "a.json").write_text("{}")
    assert merge([str(tmp_path)]) == 2
    assert "a.json: is no record of a case" in capsys.readouterr().err


def test_gpus_are_a_process_each_with_its_part_of_the_runs_share(
    scans: Path, threshold_weights: Path, sequential: Path, tmp_path: Path
) -> None:
    """On the CPU here: what each process sees of GPUs is its variable."""
    share = Shard(1, 2)
    others = {name for name in NAMES if not share.holds(f"{name}.nii.gz")}
    table = tmp_path / "lesions.csv"
    run = segment(scans, tmp_path, threshold_weights, "--gpus=2", "--shard=1/2", f"--measurements={table}")
    assert others
    assert run.returncode in (0, 1), run.stderr
    assert same(tmp_path, sequential, others)
    assert {name for name, one in report_of(tmp_path).items() if one["status"] == "done"} == set(NAMES) - others
    assert {line.split(",")[0] for line in table.read_text().splitlines()[1:]} <= set(NAMES) - others


def test_a_driver_that_is_killed_and_started_again_does_what_was_left_and_nothing_twice(
    scans: Path, threshold_weights: Path, sequential: Path, cluster: Any, tmp_path: Path
) -> None:
    options = on(cluster, "--skip-existing")
    line = doomed("3", scans, tmp_path, threshold_weights, *options)
    first = subprocess.run(line, cwd=ROOT, capture_output=True, timeout=1800)
    assert first.returncode == -signal.SIGKILL
    while workers():  # Ray ends them when it notices
        time.sleep(0.5)
    before = records(tmp_path)
    assert 2 <= len(before) < len(NAMES)  # of three that it was told of, one may be damaged; two were on their way
    run = segment(scans, tmp_path, threshold_weights, *options)
    assert run.returncode == 1, run.stderr
    assert same(tmp_path, sequential)
    assert records(tmp_path).items() >= before.items(), "what was done is left alone"
    assert {name: one["status"] for name, one in report_of(tmp_path).items()} == {
        name: "skipped" if f"{name}.nii.gz.json" in before else "done" for name in NAMES
    } | {"damaged": "failed"}
    assert not list(tmp_path.rglob(".partial-*"))


def test_a_run_whose_head_is_lost_ends_and_goes_on_with_another(
    scans: Path, threshold_weights: Path, sequential: Path, cluster: Any, tmp_path: Path
) -> None:
    lost = two_nodes()
    impatient = os.environ | {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}  # else a minute
    try:
        line = doomed("held", scans, tmp_path, threshold_weights, *on(lost, "--skip-existing"))
        run = subprocess.Popen(line, cwd=ROOT, env=impatient, stderr=subprocess.DEVNULL)
        while run.poll() is None and not records(tmp_path):
            time.sleep(0.2)
        lost.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        assert run.wait(1800) != 0
    finally:
        lost.shutdown()
    before = records(tmp_path)
    assert before
    again = segment(scans, tmp_path, threshold_weights, *on(cluster, "--skip-existing"))
    assert again.returncode == 1, again.stderr
    assert same(tmp_path, sequential)
    assert records(tmp_path).items() >= before.items(), "what was done is left alone"
    assert not list(tmp_path.rglob(".partial-*"))
