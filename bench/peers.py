"""This project against nnU-Net v2 and MONAI's SegResNet, on the same simulated scan, one after the other.

    python -m bench.peers [--slices 108] [--slice-mm 3] [--patches 4] [--device cpu|cuda] [--out bench/results]

Each runs in a process of its own, from a file to a label map in a file. The peers have random weights, which costs the
same time as trained ones, and their published forms:

- nnU-Net v2, 3d_fullres on KiTS: PlainConvUNet, 6 stages of 32 to 320 features, patches of 128 x 128 x 128, 0.78 mm
  (https://github.com/MIC-DKFZ/nnUNet; Isensee et al., Nature Methods 2021), through its own predictor, with its
  preprocessing and export, without and with mirroring;
- the same network at 3 mm, the form of TotalSegmentator's --fast (Wasserthal et al., Radiology: AI 2023);
- MONAI's SegResNet, 32 features first, in MONAI's sliding window over 0.78 mm voxels, patches of 128 x 128 x 128.

Only the first patches of a peer are computed and timed; each other takes the mean of these, less the first one's.
Reading, resampling, weighting of the windows and writing are done in full.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.common import IN_PLANE_MM, ROOT, Usage, machine, measured, save, table, write_scan

PATCH = [128, 128, 128]
OURS = {"KiTS Cascade": "native", "KiTS Cascade, as published": "paper"}
"""This project's modes that are measured; the others' times are told as multiples of each."""
PEERS = {
    "nnU-Net 3d_fullres": ("nnunet", IN_PLANE_MM, False),
    "nnU-Net 3d_fullres, mirrored": ("nnunet", IN_PLANE_MM, True),
    "nnU-Net at 3 mm": ("nnunet", 3.0, False),
    "SegResNet": ("segresnet", IN_PLANE_MM, False),
}


class Sampled:
    """Calls a network for the first patches only, and times them; then gives the last answer again."""

    def __init__(self, network: Callable[[Any], Any], most: int, device: str) -> None:
        self.network, self.most, self.device = network, most, device
        self.seconds: list[float] = []
        self.calls = 0
        self.answer: Any = None

    def __call__(self, patch: Any) -> Any:
        import torch

        self.calls += 1
        if len(self.seconds) < self.most:
            started = time.perf_counter()
            self.answer = self.network(patch)
            if self.device.startswith("cuda"):
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - started)
        return self.answer.clone()

    def left_out(self) -> float:
        """Seconds that the patches not computed would have taken."""
        warm = self.seconds[1:] or self.seconds
        return (self.calls - len(self.seconds)) * sum(warm) / len(warm)


def plans(spacing: float) -> dict[str, Any]:
    """nnU-Net's plans for KiTS with 3d_fullres, at a spacing in mm."""
    resample = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": "Dataset064_KiTS",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 0.78, 0.78],
        "original_median_shape_after_transp": [108, 512, 512],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 101.0, "median": 103.0, "std": 76.9, "min": -1015.0, "max": 3071.0}
            | {"percentile_00_5": -79.0, "percentile_99_5": 304.0}
        },
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": PATCH,
                "median_image_size_in_voxels": [525, 512, 512],
                "spacing": [spacing] * 3,
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resample,
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_seg_kwargs": resample | {"is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": resample | {"order": 1},
                "batch_dice": False,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": {
                        "n_stages": 6,
                        "features_per_stage": [32, 64, 128, 256, 320, 320],
                        "conv_op": "torch.nn.modules.conv.Conv3d",
                        "kernel_sizes": [[3, 3, 3]] * 6,
                        "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
                        "n_conv_per_stage": [2] * 6,
                        "n_conv_per_stage_decoder": [2] * 5,
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
    }


def nnunet(scan: Path, spacing: float, mirror: bool, patches: int, device: str) -> tuple[Sampled, float]:
    """A case through nnU-Net's own predictor: the timed network, and the seconds that the case took."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plan = plans(spacing)
    architecture = plan["configurations"]["3d_fullres"]["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        3,
        deep_supervision=False,
    ).eval()
    predictor = nnUNetPredictor(use_mirroring=mirror, device=torch.device(device), allow_tqdm=False)
    manager = PlansManager(plan)
    labels = {"background": 0, "kidney": 1, "tumor": 2}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 210, "file_ending": ".nii.gz"}
    configuration = manager.get_configuration("3d_fullres")
    predictor.manual_initialization(
        network, manager, configuration, [network.state_dict()], dataset, "nnUNetTrainer", (0, 1, 2)
    )
    sampled = Sampled(predictor._internal_maybe_mirror_and_predict, patches, device)
    predictor._internal_maybe_mirror_and_predict = sampled
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        predictor.predict_from_files_sequential([[str(scan)]], [str(Path(folder) / "case")])
    return sampled, time.perf_counter() - started


def segresnet(scan: Path, spacing: float, mirror: bool, patches: int, device: str) -> tuple[Sampled, float]:
    """A case through MONAI's SegResNet: the timed network, and the seconds that the case took."""
    import SimpleITK as sitk
    import torch
    from monai.inferers import sliding_window_inference
    from monai.networks.nets import SegResNet

    network = SegResNet(init_filters=32, in_channels=1, out_channels=3, blocks_down=(1, 2, 2, 4)).eval().to(device)
    sampled = Sampled(network, patches, device)
    started = time.perf_counter()
    image = sitk.ReadImage(str(scan), sitk.sitkFloat32)
    hu = torch.from_numpy(sitk.GetArrayFromImage(image))[None, None].clamp_(-79, 304).sub_(101).div_(76.9)
    size = [round(n * mm / spacing) for n, mm in zip(image.GetSize()[::-1], image.GetSpacing()[::-1], strict=True)]
    with torch.inference_mode(), torch.autocast(device, enabled=device == "cuda"):
        fine = torch.nn.functional.interpolate(hu, size=size, mode="trilinear")
        logits = sliding_window_inference(fine, PATCH, 1, sampled, 0.5, "gaussian", sw_device=device, device="cpu")
        assert isinstance(logits, torch.Tensor)  # of one network; several or a dictionary for others
        labels = logits.argmax(1, keepdim=True).to(torch.uint8)
        labels = torch.nn.functional.interpolate(labels, size=hu.shape[2:], mode="nearest")
    result = sitk.GetImageFromArray(labels[0, 0].numpy())
    result.CopyInformation(image)
    with tempfile.TemporaryDirectory() as folder:
        sitk.WriteImage(result, str(Path(folder) / "case.nii.gz"), useCompression=True)
    return sampled, time.perf_counter() - started


def run_ours(scan: Path, device: str, mode: str, folder: Path) -> tuple[float, Usage, list[str]]:
    """Seconds of the case in one mode, usage of the whole process, and the stages' seconds.

    Raises:
        RuntimeError: the kidneys were not found, so that less was done than on a patient.
    """
    report = folder / "report.json"
    output = folder / f"ours-{mode}"
    options: list[str | Path] = ["--output", output, "--mode", mode, "--device", device, "--report", report]
    usage, _ = measured(["process.py", "--input", scan, *options])
    (case,) = json.loads(report.read_text(encoding="utf-8"))
    if min(case["right"]["parenchyma_ml"], case["left"]["parenchyma_ml"]) < 50:
        raise RuntimeError(f"the kidneys of the simulated scan were not found: {case}")
    return sum(case["seconds"].values()), usage, [f"{name} {s:.1f}" for name, s in case["seconds"].items()]


def draw(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Bars of seconds, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 2.6), layout="constrained")
    names = [row["name"] for row in rows][::-1]
    bars = axes.barh(names, [row["seconds"] for row in rows][::-1], color=["#888"] * len(PEERS) + ["#c33"] * len(OURS))
    axes.bar_label(bars, [f"{row['seconds']:.0f} s" for row in rows][::-1], padding=3)
    axes.set(xscale="log", xlabel="seconds a case")
    axes.set_title(title, fontsize=10)
    axes.margins(x=0.2)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, default=108)
    parser.add_argument("--slice-mm", type=float, default=3.0)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--patches", type=int, default=4, help="patches of each peer that are computed")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--peer", choices=sorted(PEERS), help="run one peer in this process, and print its figures")
    parser.add_argument("--scan", type=Path, help="for --peer")
    arguments = parser.parse_args()
    if arguments.peer:
        kind, spacing, mirror = PEERS[arguments.peer]
        run = {"nnunet": nnunet, "segresnet": segresnet}[kind]
        sampled, seconds = run(arguments.scan, spacing, mirror, arguments.patches, arguments.device)
        timed = {"seconds": seconds + sampled.left_out(), "left_out": sampled.left_out()}
        print(json.dumps(timed | {"patches": sampled.calls, "timed": sampled.seconds}))
        return
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "in" / "case_0000.nii.gz"
        write_scan(scan, arguments.slices, arguments.slice_mm, arguments.rows)
        rows: list[dict[str, Any]] = []
        for name, mode in OURS.items():
            seconds, usage, stages = run_ours(scan, arguments.device, mode, Path(folder))
            rows.append(
                {"name": name, "seconds": seconds, "cpu": usage.cpu, "peak": usage.peak, "note": ", ".join(stages)}
            )
        for name in PEERS:
            patches = 1 + arguments.patches // 4 if PEERS[name][2] else arguments.patches
            options = ["--scan", scan, "--patches", str(patches), "--device", arguments.device]
            usage, line = measured(["-m", "bench.peers", "--peer", name, *options])
            timed = json.loads(line)
            share = usage.cpu / usage.wall
            note = f"{len(timed['timed'])} of {timed['patches']} patches computed, {timed['timed'][-1]:.2f} s each"
            rows.append(
                {"name": name, "seconds": timed["seconds"], "cpu": usage.cpu + share * timed["left_out"]}
                | {"peak": usage.peak, "note": note}
            )
            print(name, note, flush=True)
    where = machine(arguments.device)
    size = f"{arguments.slices} x {arguments.rows} x {arguments.rows} voxels of {arguments.slice_mm:g} x 0.78 x 0.78 mm"
    text = f"# A case against others\n\n{where}; {size}\n\n" + table(
        ["", "seconds a case", *(f"times {mode}" for mode in OURS.values()), "CPU seconds, with start", "peak GB", ""],
        [
            (
                row["name"],
                f"{row['seconds']:.1f}",
                *(f"{row['seconds'] / ours['seconds']:.1f}" for ours in rows[: len(OURS)]),
                f"{row['cpu']:.0f}",
                f"{row['peak'] / 1e9:.2f}",
                row["note"],
            )
            for row in rows
        ],
    )
    save("peers", arguments.out, text, {"machine": where, "scan": size, "rows": rows})
    draw(rows, arguments.out / "peers.png", f"{where}\n{size}")


if __name__ == "__main__":
    main()
