"""The recipes for clusters: they can be read, and call the program by options that it has."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
from packaging.requirements import Requirement

from kits.batch.options import Options
from test.helpers.threshold import labels_in, phantom

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def rayjob() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())


def pinned_ray() -> str:
    lines = (ROOT / "requirements-cohort.txt").read_text().splitlines()
    (ray,) = (Requirement(line) for line in lines if line.startswith("ray="))
    return str(ray.specifier).removeprefix("==")


def test_the_ray_jobs_command_is_one_that_the_program_takes() -> None:
    python, program, *arguments = shlex.split(rayjob()["spec"]["entrypoint"])
    assert (python, Path(program).name) == ("python", "process.py")
    assert f"WORKDIR {Path(program).parent}" in (ROOT / "Dockerfile").read_text()
    options = Options.parse(arguments, "process.py")
    assert options.ray == "auto"
    assert options.skip_existing
    assert options.output == "s3://bucket/out"


def test_a_worker_of_the_ray_job_has_the_cores_that_its_command_takes_and_the_head_has_none_to_give() -> None:
    cluster = rayjob()["spec"]["rayClusterSpec"]
    arguments = shlex.split(rayjob()["spec"]["entrypoint"])[2:]
    (workers,) = cluster["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    assert int(container["resources"]["requests"]["cpu"]) == Options.parse(arguments, "process.py").worker_cores
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


def test_ray_is_the_same_in_the_job_the_image_and_the_requirements() -> None:
    assert rayjob()["spec"]["rayClusterSpec"]["rayVersion"] == pinned_ray()
    assert f'"ray[default]=={pinned_ray()}"' in (DEPLOY / "Dockerfile").read_text()


def test_the_slurm_script_is_bash_and_its_command_is_one_that_the_program_takes() -> None:
    script = DEPLOY / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text().replace("\\\n", " ")
    (command,) = re.findall(r"^exec srun kits segment (.+)$", text, re.MULTILINE)
    values = {"$SLURM_ARRAY_TASK_ID": "3", "$SLURM_ARRAY_TASK_COUNT": "16", "$1": "/in", "$2": "s3://bucket/out"}
    for name in sorted(values, key=len, reverse=True):
        command = command.replace(name, values[name])
    options = Options.parse(shlex.split(command), "kits segment")
    assert (options.shard.number, options.shard.count) == (3, 16)
    assert options.report == "s3://bucket/out/report-3.json"
    assert options.skip_existing


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_the_ray_jobs_command_succeeds_on_a_cluster_that_it_is_submitted_to(threshold_weights, tmp_path) -> None:
    """By ``ray job submit``, with files of this machine in place of those on S3, and these tests' weights."""
    pytest.importorskip("ray", reason="Ray is not installed")
    for needed in ("aiohttp_cors", "colorful", "opencensus"):
        pytest.importorskip(needed, reason="Ray's dashboard is not installed (pip install 'ray[default]')")
    from ray.cluster_utils import Cluster

    for number in (1, 2):
        image = sitk.GetImageFromArray(phantom((12, 96, 128), radius_mm=(16, 13, 13), tumour_mm=4.0 + number)[0])
        image.SetSpacing((0.8, 0.8, 3.0))
        sitk.WriteImage(image, str(tmp_path / f"scan{number}.nii.gz"))
    (tmp_path / "scans.csv").write_text("source\nscan1.nii.gz\nscan2.nii.gz\n")
    here = {"python": sys.executable, "/opt/kits-cascade/process.py": ROOT / "process.py"}
    entrypoint = [
        str(here.get(word, word)).replace("s3://bucket", str(tmp_path))
        for word in shlex.split(rayjob()["spec"]["entrypoint"])
    ]
    entrypoint += ["--weights", str(threshold_weights), "--device=cpu", "--engine=torch", "--mode=paper"]
    head = {
        "num_cpus": 1,
        "include_dashboard": True,
        "dashboard_port": free_port(),
        "dashboard_agent_listen_port": free_port(),
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        run = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "job", "submit",
             f"--address=http://{cluster.webui_url}", "--", *entrypoint],
            cwd=tmp_path, capture_output=True, text=True, timeout=1800,
        )  # fmt: skip
    finally:
        cluster.shutdown()
    assert run.returncode == 0, run.stdout + run.stderr
    assert "succeeded" in run.stdout
    assert [one["status"] for one in json.loads((tmp_path / "report.json").read_text())] == ["done", "done"]
    assert all((labels_in(tmp_path / "out" / f"scan{number}.nii.gz") == 2).any() for number in (1, 2))
