"""A network's few hundred kernels launched at once on a GPU, where a trial finds that this is right and faster."""

from __future__ import annotations

import logging
import time

import torch
from torch import nn

WARM_UPS = 3
TRIALS = 5
MOST_APART = 0.01
"""By how much a recorded network's probabilities may differ: fp16's rounding, should cuDNN choose other kernels."""
log = logging.getLogger(__name__)


class Recorded:
    """A network whose kernels for one shape of input are a CUDA graph; any other shape goes to the network itself.

    What it returns for that shape is overwritten at the next call.

    Args:
        network: on a GPU, in evaluation mode.
        stacks_BCYX: input of that shape and memory format, on the same GPU.
        precision: of autocast; float32 is none.

    Raises:
        RuntimeError: CUDA cannot record it, or has not the memory.
    """

    def __init__(self, network: nn.Module, stacks_BCYX: torch.Tensor, precision: torch.dtype) -> None:
        self.network = network
        self.stacks_BCYX = stacks_BCYX.clone()
        self.graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(stacks_BCYX.device)
        stream.wait_stream(torch.cuda.current_stream(stacks_BCYX.device))
        # What autocast remembers outside of the recording would not be there at its replay.
        mixed = torch.autocast("cuda", precision, enabled=precision != torch.float32, cache_enabled=False)
        with torch.inference_mode(), mixed:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):  # libraries set themselves up at their first calls, which no graph may hold
                    network(self.stacks_BCYX)
            # Other threads may use the GPU meanwhile: only this one's forbidden calls are errors.
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.logits_BCYX = network(self.stacks_BCYX)

    def __call__(self, stacks_BCYX: torch.Tensor) -> torch.Tensor:
        if stacks_BCYX.shape != self.stacks_BCYX.shape:
            return self.network(stacks_BCYX)
        self.stacks_BCYX.copy_(stacks_BCYX)
        self.graph.replay()
        return self.logits_BCYX

    def forget(self) -> None:
        """Give the recording's memory back; from now on every batch goes to the network itself."""
        self.graph.reset()
        self.stacks_BCYX = self.logits_BCYX = self.stacks_BCYX[:0].clone()


def recorded_if_faster(network: nn.Module, stacks_BCYX: torch.Tensor, precision: torch.dtype) -> nn.Module | Recorded:
    """The network as a CUDA graph, or as it is, where that cannot be, gives other numbers or takes as long.

    Args:
        network, stacks_BCYX, precision: of ``Recorded``; the input's values are what both are tried on.
    """
    try:
        recorded = Recorded(network, stacks_BCYX, precision)
        mixed = torch.autocast(stacks_BCYX.device.type, precision, enabled=precision != torch.float32)
        with torch.inference_mode(), mixed:
            expected, got = (run(stacks_BCYX).float().softmax(1) for run in (network, recorded))
            apart = float((expected - got).abs().max())
            eager, replayed = (seconds(run, stacks_BCYX) for run in (network, recorded))
    except RuntimeError as error:
        log.info("Its kernels are launched one by one: CUDA could not record them (%s).", error)
        torch.cuda.empty_cache()
        return network
    if not apart <= MOST_APART:  # nor is it where one of them is no number
        log.warning("The network's kernels are launched one by one: recorded, its probabilities are %.3f off.", apart)
        return network
    log.info("A batch takes %.1f ms, its kernels recorded %.1f ms.", 1000 * eager, 1000 * replayed)
    return recorded if replayed < eager else network


def seconds(network: nn.Module | Recorded, stacks_BCYX: torch.Tensor) -> float:
    """Seconds that a batch takes, the best of a few."""
    found = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        network(stacks_BCYX)[0, 0, 0, 0].item()  # waits for the device
        found.append(time.perf_counter() - started)
    return min(found)
