"""Networks on a CPU by OpenVINO."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import torch
from torch import nn

from kits.geometry import WINDOW_PX
from kits.networks import Network
from kits.runtime.signal_stack import kept_signal_stack
from kits.runtime.stacks import OFFSETS


def compile_with_openvino(network: nn.Module, precision: torch.dtype) -> Network:
    """Compile a network for this CPU, for any batch of windows; nothing is written to disk.

    What a compiled network returns is overwritten at its next call.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it would report home
    openvino = importlib.import_module("openvino")
    shape = (len(OFFSETS), WINDOW_PX, WINDOW_PX)
    with torch.inference_mode():
        traced = torch.jit.trace(network, torch.zeros(1, *shape), check_trace=False)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {torch.bfloat16: "bf16", torch.float16: "f16"}.get(precision, "f32"),
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # two containers on one machine would both be pinned to its first cores
    }
    with kept_signal_stack():
        compiled = openvino.compile_model(openvino.convert_model(traced, input=[-1, *shape]), "CPU", settings)

    def run(stacks_BCYX: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(compiled(stacks_BCYX.numpy(), share_inputs=True, share_outputs=True)[0])

    return run
