"""The command line: exit status, options and environment, and a sentence for whatever goes wrong."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from kits.batch import command, options
from kits.batch.options import Options
from kits.io.volume import Grid
from kits.plan import PAPER
from kits.runtime.runtime import Runtime
from test.helpers.threshold import threshold_cascade

ROOT = Path(__file__).parent.parent.parent
SHAPE, SPACING = (2, 64, 64), (3.0, 0.8, 0.8)


def write(path, array, spacing=SPACING):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing((*spacing[::-1], 1.0)[: array.ndim])
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def ct(make_ct):
    return make_ct(SHAPE, SPACING)


@pytest.fixture
def scans(tmp_path, ct):
    """A folder with one good scan."""
    return write(tmp_path / "in" / "good.nii.gz", ct).parent


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def loaded(monkeypatch):
    """Puts a cascade that only thresholds in the place of the trained one; holds what it was asked to load."""
    asked = []

    def load(weights, runtime):
        asked.append((weights, runtime))
        return threshold_cascade(runtime.plan.mode)

    monkeypatch.setattr("kits.cascade.cascade.Cascade.load", load)
    return asked


@pytest.fixture
def call(capsys):
    """Runs the command line in this process: gives the exit status and what it said on stderr."""

    def run(*arguments):
        capsys.readouterr()
        try:
            status = command.main([str(argument) for argument in arguments], "process.py")
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr()
        assert said.out == ""
        return status, said.err

    return run


def names_in(folder):
    """What is there and not hidden, as records are."""
    names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    return sorted(name for name in names if not name.startswith("."))


def labels_of(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


BAD = {
    "cut.nii.gz": "damaged, cut short",
    "text.nii.gz": "damaged, cut short or of another kind than its name says",
    "nothing.nii": "damaged, cut short",
    "short.mha": "damaged, cut short",
    "clipped.nrrd": "damaged, cut short",
    "flat.nii.gz": "is a 2-D image",
    "frames.nii.gz": "has more than one frame",
    "nan.nii.gz": "has NaN or infinite voxels",
    "infinite.nii": "has NaN or infinite voxels",
    "spacing.nii.gz": "its spacing along z is 500 mm",
    "air.nii.gz": "holds only air",
    "unsigned.nii.gz": "nothing below 0 HU",
    "binary.nii.gz": "which is not CT",
}


@pytest.fixture
def spoilt(scans, ct):
    """The good scan among one of each kind of bad input."""
    for name in ("cut.nii.gz", "short.mha", "clipped.nrrd"):
        path = write(scans / name, ct)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    (scans / "text.nii.gz").write_text("This is no scan.\n" * 50)
    (scans / "nothing.nii").touch()
    write(scans / "flat.nii.gz", ct[0])
    write(scans / "frames.nii.gz", np.stack([ct, ct, ct]))
    for name, value in (("nan.nii.gz", np.nan), ("infinite.nii", np.inf)):
        broken = ct.astype(np.float32)
        broken[1, 30, 30] = value
        write(scans / name, broken)
    write(scans / "spacing.nii.gz", ct, (500.0, 0.8, 0.8))
    write(scans / "air.nii.gz", np.full_like(ct, -1000))
    write(scans / "unsigned.nii.gz", (ct + 1000).astype(np.uint16))
    write(scans / "binary.nii.gz", (ct > 110).astype(np.uint8))
    return scans


def test_bad_inputs_are_named_one_by_one_and_the_good_one_is_done(spoilt, out, ct, threshold_weights, tmp_path):
    script = ROOT / "process.py"
    arguments = ["--input", spoilt, "--output", out, "--weights", threshold_weights, "--device", "cpu"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KITS_")}
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=tmp_path,  # anywhere but the repository
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if line.startswith("process.py: ")]
    assert [line.split(": ")[1] for line in said] == [str(spoilt / name) for name in sorted(BAD)]
    for line, name in zip(said, sorted(BAD), strict=True):
        assert BAD[name] in line
        assert line.endswith(".")
    for noise in ("\r", "Warning", "Traceback", "%|"):
        assert noise not in done.stderr, "quiet when not a terminal"
    assert "good: kidney" in done.stderr
    assert names_in(out) == ["good.nii.gz"]
    np.testing.assert_array_equal(labels_of(out / "good.nii.gz"), ct > 110)


def test_all_done_is_status_0(scans, out, ct, loaded, call):
    status, said = call("--input", scans, "--output", out)
    assert status == 0
    assert "process.py:" not in said
    assert names_in(out) == ["good.nii.gz"]
    np.testing.assert_array_equal(labels_of(out / "good.nii.gz"), ct > 110)


def test_a_failed_case_is_status_1_and_a_sentence(scans, out, loaded, call):
    (scans / "bad.nii.gz").write_text("no scan")
    status, said = call("--input", scans, "--output", out)
    assert status == 1
    (sentence,) = [line for line in said.splitlines() if line.startswith("process.py: ")]
    assert sentence.startswith(f"process.py: {scans / 'bad.nii.gz'}: cannot be read as .nii.gz")
    assert names_in(out) == ["good.nii.gz"]


def test_a_scan_without_kidneys_is_an_empty_map_a_warning_and_status_0(scans, out, ct, loaded, call):
    write(scans / "good.nii.gz", np.minimum(ct, 40))
    status, _ = call("--input", scans, "--output", out, "--report", out / "report.json")
    assert status == 0
    assert not labels_of(out / "good.nii.gz").any()
    (case,) = json.loads((out / "report.json").read_text())
    assert case["status"] == "done"
    assert "No kidney was found" in " ".join(case["warnings"])


TURNED = [[0, -1, 0], [1, 0, 0], [0, 0, -1]]
OBLIQUE = [[0, -0.96, -0.28], [1, 0, 0], [0, -0.28, 0.96]]


@pytest.mark.parametrize(("mode", "direction"), [("native", TURNED), ("paper", TURNED), ("native", OBLIQUE)])
def test_the_label_map_lies_on_the_scan_s_exact_grid(tmp_path, make_ct, out, loaded, call, mode, direction):
    image = sitk.GetImageFromArray(make_ct((30, 64, 64), SPACING))
    image.SetSpacing((0.8, 0.8, 3.0))
    image.SetOrigin((-101.375, 33.123, 1200.5))
    image.SetDirection(np.ravel(direction).astype(float).tolist())
    source = tmp_path / "in" / "turned.nii.gz"
    source.parent.mkdir()
    sitk.WriteImage(image, str(source))
    assert call("--input", source, "--output", out, "--mode", mode)[0] == 0
    labels, given = sitk.ReadImage(str(out / "turned.nii.gz")), sitk.ReadImage(str(source))
    # NIfTI stores an oblique direction in float32: it cannot come back to the last digit of a double.
    np.testing.assert_allclose(labels.GetDirection(), given.GetDirection(), atol=0 if direction is TURNED else 1e-6)
    labels.SetDirection(given.GetDirection())
    assert Grid.of(labels) == Grid.of(given)
    assert labels.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(sitk.GetArrayViewFromImage(labels))) == {0, 1}


def test_everything_asked_for_is_written_where_asked(scans, out, tmp_path, ct, loaded, call):
    pictures, report = tmp_path / "pictures", tmp_path / "deep" / "report.json"
    extras = ("--save-probabilities", "--overlays", pictures, "--report", report)
    assert call("--input", scans, "--output", out, *extras)[0] == 0
    assert names_in(out) == [
        "good.nii.gz",
        "probabilities",
        "probabilities/good_kidney_percent.nii.gz",
        "probabilities/good_tumour_percent.nii.gz",
    ]
    percent = labels_of(out / "probabilities" / "good_kidney_percent.nii.gz")
    np.testing.assert_array_equal(percent, 100 * (ct > 110))
    assert names_in(pictures) == ["good.png"]
    (case,) = json.loads(report.read_text())
    assert (case["name"], case["status"], case["size"]) == ("good", "done", [64, 64, 2])
    assert case["left"]["kidney_with_masses_voxels"] + case["right"]["kidney_with_masses_voxels"] == (ct > 110).sum()
    assert case["seconds"].keys() == {"read", "locate", "segment", "postprocess", "write"}


def test_every_option_can_come_from_the_environment(scans, out, tmp_path, make_ct, loaded, call, monkeypatch):
    write(scans / "there.nii.gz", np.minimum(make_ct(SHAPE, SPACING), 179))
    values = {
        "INPUT": scans,
        "OUTPUT": out,
        "WEIGHTS": tmp_path / "my weights",
        "DEVICE": "cpu",
        "MODE": "paper",
        "ENGINE": "torch",
        "PRECISION": "fp32",
        "OVERLAYS": tmp_path / "pictures",
        "REPORT": tmp_path / "report.json",
        "SKIP_EXISTING": "1",
        "SAVE_PROBABILITIES": "true",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"KITS_{name}", str(value))
    assert call("--input", scans / "there.nii.gz")[0] == 0
    loaded.clear()
    assert call()[0] == 0
    assert loaded == [(tmp_path / "my weights", Runtime.of("cpu", "paper", "torch", "fp32"))]
    assert (out / "good.nii.gz").is_file()
    assert (out / "probabilities" / "good_kidney_percent.nii.gz").is_file()
    assert (tmp_path / "pictures" / "good.png").is_file()
    statuses = {case["name"]: case["status"] for case in json.loads((tmp_path / "report.json").read_text())}
    assert statuses == {"good": "done", "there": "skipped"}


def test_an_option_beats_the_environment(scans, out, tmp_path, loaded, call, monkeypatch):
    monkeypatch.setenv("KITS_INPUT", str(tmp_path / "nowhere"))
    monkeypatch.setenv("KITS_OUTPUT", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("KITS_MODE", "none of the two")
    assert call("--input", scans, "--output", out, "--mode", "paper")[0] == 0
    assert loaded[0][1].plan == PAPER
    assert names_in(out) == ["good.nii.gz"]
    assert not (tmp_path / "elsewhere").exists()


def test_a_plan_changes_what_it_names_of_the_mode(scans, out, tmp_path, loaded, call):
    plan = tmp_path / "plan.toml"
    plan.write_text("look_every = 2\n")
    assert call("--input", scans, "--output", out, "--mode", "paper", "--plan", plan)[0] == 0
    assert loaded[0][1].plan == replace(PAPER, look_every=2)
    plan.write_text("look_evry = 2\n")
    status, said = call("--input", scans, "--output", out, "--plan", plan)
    assert (status, len(loaded)) == (2, 1)
    assert f"{plan}: a plan has no field 'look_evry'; did you mean look_every?" in said


def test_an_empty_variable_or_a_no_is_as_good_as_none(monkeypatch):
    for name in ("INPUT", "OVERLAYS", "REPORT", "MODE"):
        monkeypatch.setenv(f"KITS_{name}", "")
    for name, value in (("SKIP_EXISTING", "0"), ("SAVE_PROBABILITIES", "False")):
        monkeypatch.setenv(f"KITS_{name}", value)
    found = Options.parse([], "kits segment")
    assert (found.input, found.output, found.mode, found.device) == (
        Path("/input"),
        Path("/output"),
        "native",
        "auto",
    )
    assert found.weights == ROOT / "weights"
    assert (found.extras, found.report) == ((), None)
    assert not found.skip_existing


@pytest.mark.parametrize("kind", ["an empty folder", "no folder", "a folder of other files", "another file"])
def test_nothing_to_do_says_what_was_looked_for_and_where(tmp_path, out, loaded, call, kind):
    source = tmp_path / "in"
    if kind == "another file":
        source.write_text("hello")
    elif kind != "no folder":
        source.mkdir()
    if kind == "a folder of other files":
        (source / "notes.txt").write_text("hello")
    status, said = call("--input", source, "--output", out)
    assert status == 2
    assert said.startswith(f"process.py: {source}: ")
    assert "*.nii, *.nii.gz, " in said
    assert said.count("\n") == 1
    assert loaded == []
    assert not out.exists()


def test_two_scans_that_would_give_one_label_map_are_refused(scans, out, ct, loaded, call):
    write(scans / "good.mha", ct)
    status, said = call("--input", scans, "--output", out)
    assert status == 2
    assert f"{scans / 'good.mha'} and {scans / 'good.nii.gz'} would both write good.nii.gz" in said


def test_a_label_map_never_replaces_a_scan(scans, tmp_path, loaded, call):
    scan = scans / "good.nii.gz"
    before = scan.read_bytes()
    (tmp_path / "link").symlink_to(scans)
    for output in (scans, tmp_path / "link"):
        for source in (scans, scan):
            status, said = call("--input", source, "--output", output)
            assert status == 2
            assert "another folder than --input" in said or "is a scan that a result would overwrite" in said
    assert scan.read_bytes() == before


def test_missing_weights_are_told_by_folder(scans, out, tmp_path, call):
    status, said = call("--input", scans, "--output", out, "--weights", tmp_path / "nowhere")
    assert status == 2
    assert said.startswith(f"process.py: No weights: {tmp_path / 'nowhere'} holds no *.safetensors file")
    assert names_in(out) == []


@pytest.mark.parametrize("option", ["--output", "--overlays", "--report"])
@pytest.mark.parametrize("beneath", [False, True])
def test_a_place_that_cannot_be_written_to_is_told_before_any_work(scans, out, tmp_path, loaded, call, option, beneath):
    blocked = tmp_path / "blocked"
    if option == "--report" and not beneath:
        blocked.mkdir()  # a folder where the file should be
    else:
        blocked.write_text("a file where the folder should be")
    place = blocked / "deeper" if beneath else blocked
    status, said = call("--input", scans, *(() if option == "--output" else ("--output", out)), option, place)
    assert status == 2
    (sentence,) = [line for line in said.splitlines() if line.startswith("process.py: ")]
    assert sentence.startswith(f"process.py: {place}")
    assert "cannot be written" in sentence
    assert "kidney" not in said
    assert not out.exists() or names_in(out) == []


def test_cuda_where_there_is_none_is_refused(scans, out, tiny_weights, call, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, said = call("--input", scans, "--output", out, "--weights", tiny_weights, "--device", "cuda")
    assert status == 2
    assert "use --device cpu." in said
    assert names_in(out) == []


@pytest.mark.parametrize("given_by", ["option", "environment"])
@pytest.mark.parametrize(("name", "allowed"), [("mode", "native, paper"), ("device", "auto, cpu, cuda, cuda:0")])
def test_an_unknown_choice_is_refused_with_those_there_are(
    scans, out, loaded, call, monkeypatch, name, allowed, given_by
):
    arguments = ["--input", scans, "--output", out]
    if given_by == "option":
        arguments += [f"--{name}", "fastest"]
    else:
        monkeypatch.setenv(f"KITS_{name.upper()}", "fastest")
    status, said = call(*arguments)
    assert status == 2
    assert f"argument --{name}: 'fastest' is none of {allowed}" in said
    assert loaded == []
    assert not out.exists()


def test_a_plan_s_file_changes_fields_of_the_mode_s_plan(scans, out, tmp_path, loaded, call):
    plan = tmp_path / "plan.toml"
    plan.write_text("look_every = 2\n")
    assert call("--input", scans, "--output", out, "--mode", "paper", "--plan", plan)[0] == 0
    assert loaded[0][1].plan == replace(PAPER, look_every=2)
    plan.write_text("look_evry = 2\n")
    status, said = call("--input", scans, "--output", out, "--plan", plan)
    assert status == 2
    assert "did you mean look_every?" in said


def test_an_unknown_option_is_refused(call):
    status, said = call("--inptu", "x")
    assert status == 2
    assert "--inptu" in said


def test_the_help_names_every_option_with_its_variable(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    names = [
        "input",
        "output",
        "weights",
        "device",
        "mode",
        "overlays",
        "report",
        "skip-existing",
        "save-probabilities",
    ]
    for name in names:
        assert f"--{name}" in text
        assert f"[KITS_{name.upper().replace('-', '_')}" in text


def test_a_zip_is_packed_only_if_every_case_is_done(tmp_path, ct, out, loaded, call):
    write(tmp_path / "in" / "case_00210" / "imaging.nii.gz", ct)
    package = tmp_path / "submission.zip"
    assert call("--input", tmp_path / "in", "--output", out, "--zip", package)[0] == 0
    with zipfile.ZipFile(package) as archive:
        assert archive.namelist() == ["prediction_00210.nii.gz"]
    package.unlink()
    write(tmp_path / "in" / "case_00211" / "imaging.nii.gz", np.zeros_like(ct))
    status, said = call("--input", tmp_path / "in", "--output", out, "--zip", package)
    assert (status, package.exists()) == (1, False)
    assert "submission.zip: not written, 1 of 2 predictions are missing" in said
    assert call("--input", tmp_path / "in", "--output", out, "--zip", package, "--zip-incomplete")[0] == 1
    assert package.exists()


def test_a_zip_of_other_than_kits_cases_is_refused_before_any_work(scans, out, tmp_path, loaded, call):
    status, said = call("--input", scans, "--output", out, "--zip", tmp_path / "submission.zip")
    assert (status, loaded) == (2, [])
    assert "a submission holds prediction_NNNNN.nii.gz only" in said


def test_a_time_limit_that_is_over_leaves_a_sentence_and_status_1(scans, out, loaded, call):
    status, said = call("--input", scans, "--output", out, "--time-limit", "1e-9")
    assert status == 1
    assert "The time limit of 1e-09 s was reached after 0 of 1 cases" in said
    assert names_in(out) == []


@pytest.mark.parametrize("limit", ["0", "-1", "soon", "nan"])
def test_a_time_limit_that_is_none_is_refused(scans, out, call, limit):
    assert call("--input", scans, "--output", out, f"--time-limit={limit}")[0] == 2


def test_mounted_weights_go_before_those_that_come_with_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(options, "MOUNTED_WEIGHTS", tmp_path)
    assert Options.parse([], "kits segment").weights == ROOT / "weights"
    (tmp_path / "res-unet1.safetensors").touch()
    assert Options.parse([], "kits segment").weights == tmp_path
    assert Options.parse(["--weights", "mine"], "kits segment").weights == Path("mine")


@pytest.mark.parametrize("command", ["segment", "score", "demo"])
def test_help_comes_without_torch(command):
    code = f"import sys, kits.cli\ntry: kits.cli.main(['{command}', '--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("False\n")
    assert f"usage: kits {command}" in done.stdout


def test_the_version_names_what_a_bug_report_needs():
    done = subprocess.run([sys.executable, "-m", "kits", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("kits-cascade ")
    assert "torch" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_imports_is_a_sentence_status_1_and_a_report(scans, out, tiny_weights, number):
    """The process sends it to itself once the input was looked at, before anything heavy is imported."""
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from kits.batch import command
look = command.check_places
command.check_places = lambda *rest: (look(*rest), os.kill(os.getpid(), {int(number)}))
sys.exit(command.main(sys.argv[1:]))
"""
    arguments = ["--input", scans, "--output", out, "--report", out / "report.json", "--weights", tiny_weights]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"The run was told to end ({number.name}) after 0 of 1 cases" in done.stderr
    assert [case["status"] for case in json.loads((out / "report.json").read_text())] == ["not reached"]


def test_a_report_into_a_device_that_is_full_costs_no_label_map(scans, out, loaded, call):
    status, said = call("--input", scans, "--output", out, "--report", "/dev/full")
    assert status == 1
    assert "/dev/full: cannot be written (No space left on device)" in said
    assert names_in(out) == ["good.nii.gz"]
    assert Path("/dev/full").is_char_device()


def test_what_an_output_folder_inside_the_input_holds_is_no_scan(scans, loaded, call):
    for _ in range(2):
        assert call("--input", scans, "--output", scans / "out")[0] == 0
        assert names_in(scans) == ["good.nii.gz", "out", "out/.kits-cascade", "out/.kits-cascade/good.nii.gz.json",
                                   "out/good.nii.gz"]  # fmt: skip


def test_line_breaks_in_names_are_printed_escaped(tmp_path, out, loaded, call):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "two\nlines.nii.gz").write_text("no scan")
    status, said = call("--input", folder, "--output", out)
    assert status == 1
    assert "two\\nlines.nii.gz: cannot be read" in said
    assert "two\nlines" not in said


def test_the_end_names_a_failure_once_and_tells_where_results_lie(scans, out, loaded, call, caplog):
    caplog.set_level("INFO")
    (scans / "bad.nii.gz").write_text("no scan")
    _, said = call("--input", scans, "--output", out, "--report", out / "report.json")
    assert said.count("cannot be read") == 1
    assert caplog.messages[-1] == f"1 of 2 cases done; label maps in {out}, report in {out / 'report.json'}."


def test_a_fault_of_the_program_tells_how_to_report_it(scans, out, call, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("kits.cascade.cascade.Cascade.load", broken)
    status, said = call("--input", scans, "--output", out)
    assert status == 1
    assert "unexpected ZeroDivisionError: oops" in said
    assert "--verbose" in said
    assert "Traceback" not in said
    assert "Traceback" in call("--input", scans, "--output", out, "--verbose")[1]


def test_a_clusters_workers_are_told_places_that_do_not_depend_on_where_they_began(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--input=in", "--output=s3://bucket/out", "--report=report.json", "--weights=w", "--overlays=pictures"]
    here = Options.parse(given, "kits segment")
    assert (here.input, here.weights, here.extras[0].value) == (Path("in"), Path("w"), "pictures")
    there = Options.parse([*given, "--ray"], "kits segment")
    assert (there.input, there.report, there.weights) == (tmp_path / "in", tmp_path / "report.json", tmp_path / "w")
    assert there.output == here.output == "s3://bucket/out"
    assert there.extras[0].value == str(tmp_path / "pictures")


def test_what_is_made_of_all_cases_can_be_left_out_though_the_environment_asks_for_it(monkeypatch):
    monkeypatch.setenv("KITS_ZIP", "submission.zip")
    monkeypatch.setenv("KITS_MEASUREMENTS", "lesions.csv")
    asked = Options.parse([], "kits segment")
    assert (asked.zip, len(asked.extras)) == (Path("submission.zip"), 1)
    left_out = Options.parse(["--zip=", "--measurements="], "kits segment")
    assert (left_out.zip, left_out.extras) == (None, ())
