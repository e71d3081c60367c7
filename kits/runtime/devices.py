"""Where networks run: a trial at the start decides, and what a GPU does wrong later becomes a sentence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import numpy as np
import torch
from torch.nn import functional

from kits.errors import GpuMemoryError, KitsError
from kits.runtime.driver import NO_REMEDY_HERE, older_image, why_no_gpu
from kits.runtime.runtime import DEVICE

OUT_OF_MEMORY = ("out of memory", "cudaerrormemoryallocation", "cuda allocation failed", "bad_alloc", "alloc_failed")
"""How torch, CUDA, cuDNN and DALI say so, in lower case."""
log = logging.getLogger(__name__)


class DeviceLost(KitsError):
    """A GPU refuses all further work of this process, as after some errors CUDA does: no later case fares better."""


def choose_device(wanted: str = "auto") -> torch.device:
    """The CPU, or a GPU on which torch and DALI have just computed something right; that one becomes torch's current.

    Args:
        wanted: ``cpu``; ``cuda``, the first GPU that works; ``cuda:1``, that one of those that CUDA_VISIBLE_DEVICES
            leaves; ``auto``, ``cuda`` if that can be had, else the CPU.

    Raises:
        KitsError: none that was asked for works; says why, and what to do.
        ValueError: there is no such device.
    """
    if not DEVICE.fullmatch(wanted):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:NUMBER, got {wanted!r}")
    if wanted == "cpu":
        return torch.device("cpu")
    try:
        device = working_gpu(wanted)
    except KitsError as error:
        if wanted != "auto":
            raise
        if torch.version.cuda:  # whoever took a torch for CPUs knows
            log.warning("Networks will run on the CPU. %s", error)
        return torch.device("cpu")
    torch.cuda.set_device(device)
    return device


def working_gpu(wanted: str) -> torch.device:
    """The first GPU that passes the trial, or the one that is named.

    Raises:
        KitsError: there is none.
    """
    with warnings.catch_warnings():  # the sentence below says it better
        warnings.simplefilter("ignore")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise KitsError(why_no_gpu())
    index = torch.device("cuda" if wanted == "auto" else wanted).index
    if index is not None and index >= count:
        names = ", ".join(f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(count))
        raise KitsError(f"There is no {wanted} here, only {names}; name one of these.")
    complaints = []
    for number in range(count) if index is None else [index]:
        device = torch.device("cuda", number)
        try:
            try_device(device)
        except Exception as error:  # whatever it is, it is no reason for a traceback
            complaints.append(unusable(device, error))
        else:
            for complaint in complaints:
                log.warning("%s %s is used.", complaint, device)
            return device
    raise KitsError(" ".join(complaints))


def try_device(device: torch.device) -> None:
    """Let torch's convolution and DALI each compute something small, and wait for the right result.

    Raises:
        RuntimeError: one of them cannot, or computes something else; or another error of theirs.
    """
    images = torch.ones(2, 8, 16, 16, device=device)
    found = functional.conv2d(images, images.new_ones(8, 8, 3, 3))
    if not bool((found == 72).all()):
        raise RuntimeError("a convolution gave wrong numbers")
    try_dali(device.index)


def try_dali(device_id: int | None) -> None:
    """Send numbers through a DALI graph, on a GPU or, for None, on the CPU.

    Raises:
        RuntimeError: they come back wrong; or another error of DALI's.
    """
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=1, num_threads=1, device_id=device_id, prefetch_queue_depth=1)
    def graph():  # type: ignore[no-untyped-def]
        numbers = fn.external_source(name="numbers", dtype=types.INT16, ndim=1)
        return fn.cast(numbers if device_id is None else numbers.gpu(), dtype=types.FLOAT) * 2

    numbers = np.arange(8, dtype=np.int16)
    pipeline = graph()
    (doubled,) = pipeline.run(numbers=[numbers])
    if torch.from_dlpack(doubled[0]).tolist() != (2 * numbers).tolist():
        raise RuntimeError("DALI gave wrong numbers")


def unusable(device: torch.device, error: Exception) -> str:
    """Why a GPU cannot be used, with the remedy, in a sentence."""
    name = str(device)
    with suppress(Exception):  # one that is broken may not tell even this
        name += f" ({torch.cuda.get_device_name(device)})"
    if out_of_memory(error):
        return f"{name} has no memory left; end what else runs on it, or use --device cpu."
    if "no kernel image" in str(error):
        capability, built = torch.cuda.get_device_capability(device), ", ".join(torch.cuda.get_arch_list())
        return (
            f"{name} is of compute capability {capability[0]}.{capability[1]}, for which this build of torch has no "
            f"kernels ({built}); {older_image()}{NO_REMEDY_HERE}."
        )
    reason = next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"{name} does not work ({reason}); see whether `nvidia-smi` shows it healthy, or use --device cpu."


def out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory ran out, in torch's or DALI's words."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)


def free_memory(device: torch.device) -> None:
    """Give back what torch and DALI keep of a GPU's memory for themselves, so that either can have it."""
    if device.type == "cuda":
        from nvidia.dali.backend import ReleaseUnusedMemory  # type: ignore[attr-defined]

        torch.cuda.empty_cache()
        ReleaseUnusedMemory()


def current(device: torch.device) -> AbstractContextManager[None]:
    """A GPU as the calling thread's current one, inside: each thread begins with the first."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def answers(device: torch.device) -> bool:
    """Whether a device still computes. After an illegal access, for one, CUDA refuses all that this process asks."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
        return torch.ones(1, device=device).item() == 1
    except torch.cuda.OutOfMemoryError:
        return True
    except RuntimeError:
        return False


@contextmanager
def explained(device: torch.device) -> Iterator[None]:
    """Turn what a GPU does wrong inside into a sentence; all else passes.

    Raises:
        DeviceLost: the GPU refuses all further work of this process.
        GpuMemoryError: its memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if device.type != "cuda":
            raise
        if not answers(device):
            reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
            raise DeviceLost(f"The GPU gave up ({reason}; --device cpu does without it)") from error
        if out_of_memory(error):
            free_memory(device)
            raise GpuMemoryError(
                f"The memory of {device} ran out; end what else runs on it, split the scan, or use --device cpu."
            ) from error
        raise
