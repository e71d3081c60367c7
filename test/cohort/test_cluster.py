"""Cases over a Ray cluster of two nodes of this machine, with workers killed at random moments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from kits.batch.record import FOLDER
from kits.cohort.records import main as merge
from test.helpers.threshold import phantom

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'kits-cascade[cohort]')")
ROOT = Path(__file__).resolve().parents[2]
COUNT = 6


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small scans, each with another tumour, and one that is none."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(COUNT):
        hu, _ = phantom(shape=(12, 128, 160), tumour_mm=6.0 + number)
        image = sitk.GetImageFromArray(hu)
        image.SetSpacing((0.8, 0.8, 3.0))
        sitk.WriteImage(image, str(folder / f"case{number}.nii.gz"))
    (folder / "damaged.nii.gz").write_bytes(b"no scan")
    return folder


def command(scans: Path, out: Path, weights: Path, *options: str) -> list[str | Path]:
    return [
        sys.executable, "-m", "kits", "segment", "--input", scans, "--output", out, "--weights", weights,
        "--device", "cpu", "--engine", "torch", "--precision", "fp32", "--mode", "paper",
        "--report", out / "report.json", *options,
    ]  # fmt: skip


def segment(scans: Path, out: Path, weights: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(scans, out, weights, *options), cwd=ROOT, capture_output=True, text=True, timeout=900)


def labels(out: Path) -> dict[str, np.ndarray]:
    return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(out.glob("*.nii.gz"))}


@pytest.fixture(scope="module")
def sequential(scans: Path, threshold_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sequential")
    run = segment(scans, out, threshold_weights)
    assert run.returncode == 1, run.stderr
    assert len(labels(out)) == COUNT
    return out


def same(ours: Path, theirs: Path) -> bool:
    found, expected = labels(ours), labels(theirs)
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in found)


def workers() -> list[int]:
    """Processes for cases of the cluster that this process started; there may be others on the machine."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listing.splitlines()[1:]]
    parent = {int(row[0]): int(row[1]) for row in rows}

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parent and is_ours(parent[pid]))

    return [int(row[0]) for row in rows if "ray::CaseWorker.run" in row[-1] and is_ours(int(row[0]))]


def test_a_cluster_gives_what_one_process_gives_though_workers_are_killed(
    scans: Path, threshold_weights: Path, sequential: Path, tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        arguments = (scans, tmp_path, threshold_weights, f"--ray={cluster.address}", "--worker-cores=1")
        run = subprocess.Popen(
            [sys.executable, "-c", "import sys; from test.cohort.test_cluster import segment, Path; "
             "run = segment(*map(Path, sys.argv[1:4]), *sys.argv[4:]); print(run.stderr); sys.exit(run.returncode)",
             *map(str, arguments)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        chance, killed = random.Random(5), 0
        while run.poll() is None:
            time.sleep(0.2)
            if killed < 2 and (found := workers()):
                time.sleep(chance.random())
                os.kill(chance.choice(found), signal.SIGKILL)
                killed += 1
                time.sleep(8)
        said = run.communicate()[0]
    finally:
        cluster.shutdown()
    assert killed == 2
    assert run.returncode == 1, said
    assert same(tmp_path, sequential), said
    reports = {one["name"]: one for one in json.loads((tmp_path / "report.json").read_text())}
    assert [name for name, one in reports.items() if one["status"] != "done"] == ["damaged"]
    theirs = {one["name"]: one for one in json.loads((sequential / "report.json").read_text())}
    assert {n: (one["left"], one["right"]) for n, one in reports.items()} == {
        n: (one["left"], one["right"]) for n, one in theirs.items()
    }


def test_shards_together_do_each_case_once_and_their_records_are_one_table(
    scans: Path, threshold_weights: Path, sequential: Path, tmp_path: Path, capsys
) -> None:
    for share in ("1/2", "2/2"):
        assert segment(scans, tmp_path, threshold_weights, f"--shard={share}").returncode in (0, 1)
    assert same(tmp_path, sequential)
    assert merge([str(tmp_path)]) == 0
    assert f"{COUNT} cases" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [f"case{number}" for number in range(COUNT)]
    assert all(
        row["status"] == "done" and row["left_kidney_with_masses_ml"] + row["right_kidney_with_masses_ml"] > 0
        for row in rows
    )
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    query = f"SELECT count(*), sum(left_kidney_with_masses_ml) FROM '{tmp_path}/manifest.parquet'"
    count, sum_ml = duckdb.sql(query).fetchone()
    assert count == COUNT
    assert sum_ml == pytest.approx(sum(row["left_kidney_with_masses_ml"] for row in rows))


def test_a_folder_without_records_is_a_sentence(tmp_path: Path, capsys) -> None:
    assert merge([str(tmp_path)]) == 2
    assert "holds no record" in capsys.readouterr().err
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "a.json").write_text("{}")
    assert merge([str(tmp_path)]) == 2
    assert "a.json: is no record of a case" in capsys.readouterr().err


def test_gpus_are_a_process_each_with_its_share(
    scans: Path, threshold_weights: Path, sequential: Path, tmp_path: Path
) -> None:
    """On the CPU here: what each process sees of GPUs is its variable."""
    run = segment(scans, tmp_path, threshold_weights, "--gpus=2")
    assert run.returncode == 1, run.stderr
    assert same(tmp_path, sequential)
    reports = json.loads((tmp_path / "report.json").read_text())
    assert [one["status"] for one in reports] == ["done"] * COUNT + ["failed"]


def test_a_driver_that_is_killed_and_started_again_does_what_was_left_and_nothing_twice(
    scans: Path, threshold_weights: Path, sequential: Path, tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        options = (f"--ray={cluster.address}", "--worker-cores=1", "--skip-existing")
        first = subprocess.Popen(command(scans, tmp_path, threshold_weights, *options), cwd=ROOT)
        while first.poll() is None and len(records(tmp_path)) < 2:
            time.sleep(0.1)
        first.send_signal(signal.SIGKILL)
        first.wait()
        while workers():  # Ray ends them when it notices
            time.sleep(0.5)
        before = records(tmp_path)
        assert 2 <= len(before) < COUNT
        run = segment(scans, tmp_path, threshold_weights, *options)
    finally:
        cluster.shutdown()
    assert run.returncode == 1, run.stderr
    assert same(tmp_path, sequential)
    after = records(tmp_path)
    assert len(after) == COUNT
    assert {name: after[name] for name in before} == before, "what was done is left alone"
    statuses = [one["status"] for one in json.loads((tmp_path / "report.json").read_text())]
    assert statuses == ["skipped" if f"case{number}.nii.gz.json" in before else "done" for number in range(COUNT)] + [
        "failed"
    ]
    assert not list(tmp_path.rglob(".partial-*"))


def records(out: Path) -> dict[str, tuple[int, bytes]]:
    """When each case's record was written, and what it says."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (out / FOLDER).glob("*.json")}
