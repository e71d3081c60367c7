"""Which device is taken, and what is said when a GPU cannot be used: with stand-ins for torch's GPUs and the driver."""

import ctypes
import logging
from collections.abc import Callable

import pytest
import torch

from kits.errors import KitsError
from kits.runtime import devices, driver
from kits.runtime.devices import DeviceLost, choose_device, explained, try_dali
from kits.runtime.driver import why_no_gpu

TOO_OLD = RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")
NO_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
BROKEN = RuntimeError("CUDA error: uncorrectable ECC error encountered\nand more lines")
Gpus = Callable[..., list[torch.device]]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """A function that sets what the trial of each GPU raises; None: it works. Gives the list of those made current."""

    def install(*troubles: Exception | None) -> list[torch.device]:
        current: list[torch.device] = []

        def trial(device: torch.device) -> None:
            if trouble := troubles[device.index]:
                raise trouble

        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(troubles))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(troubles))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {torch.device('cuda', device).index}"
                            if isinstance(device, int) else f"GPU {device.index}")  # fmt: skip
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        monkeypatch.setattr(devices, "try_device", trial)
        return current

    return install


@pytest.fixture
def driver_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """A function that sets the driver's version; empty: it does not tell; None: there is no driver."""

    def install(version: str | None) -> None:
        class Management:
            def nvmlInit_v2(self) -> int:
                return 0

            def nvmlSystemGetDriverVersion(self, text: ctypes.Array, length: ctypes.c_uint) -> int:
                text.value = (version or "").encode()
                return 0

        def load(name: str) -> Management:
            if version is None or (not version and name == driver.LIBRARIES[1]):
                raise OSError(f"{name}: cannot open shared object file")
            return Management()

        monkeypatch.setattr(driver.ctypes, "CDLL", load)

    return install


@pytest.mark.parametrize(("wanted", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_a_gpu_that_works_is_taken_and_made_current(wanted: str, index: int, gpus: Gpus) -> None:
    current = gpus(None, None)
    assert choose_device(wanted) == torch.device("cuda", index)
    assert current == [torch.device("cuda", index)]


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_of_several_gpus_the_first_that_works_is_taken_and_why_is_said(
    wanted: str, gpus: Gpus, caplog: pytest.LogCaptureFixture
) -> None:
    gpus(NO_MEMORY, None, None)
    assert choose_device(wanted) == torch.device("cuda", 1)
    assert "cuda:0 (GPU 0) has no memory left" in caplog.text
    assert "cuda:1 is used" in caplog.text


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (TOO_OLD, "compute capability 6.1, for which this build of torch has no kernels (sm_75, sm_90)"),
        (NO_MEMORY, "no memory left; end what else runs on it"),
        (BROKEN, "does not work (CUDA error: uncorrectable ECC error encountered)"),
        (RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory"), "no memory left"),
        (MemoryError(), "no memory left"),
        (OSError("libcuda.so.1: cannot open shared object file"), "does not work (libcuda.so.1: cannot open"),
    ],
)
def test_a_gpu_that_is_seen_but_does_not_work_is_a_sentence(
    trouble: Exception, words: str, gpus: Gpus, caplog: pytest.LogCaptureFixture
) -> None:
    current = gpus(trouble)
    for wanted in ("cuda", "cuda:0"):
        with pytest.raises(KitsError) as error:
            choose_device(wanted)
        assert words in str(error.value)
        assert "--device cpu" in str(error.value)
        assert "\n" not in str(error.value)
    assert choose_device("auto") == torch.device("cpu")
    assert "Networks will run on the CPU. cuda:0 (GPU 0)" in caplog.text
    assert words in caplog.text
    assert current == []


@pytest.mark.parametrize(("built", "remedy"), [("13.0", "take the image for CUDA 12"), ("12.8", "or use --device cpu")])
def test_a_gpu_that_is_too_old_for_every_image_is_not_sent_to_another(
    built: str, remedy: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(TOO_OLD)
    monkeypatch.setattr(torch.version, "cuda", built)
    with pytest.raises(KitsError, match=rf"kernels \(sm_75, sm_90\); {remedy}"):
        choose_device("cuda")


def test_a_gpu_that_does_not_even_tell_its_name_is_a_sentence(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(device: torch.device) -> str:
        raise BROKEN

    gpus(BROKEN)
    monkeypatch.setattr(torch.cuda, "get_device_name", silent)
    with pytest.raises(KitsError, match=r"^cuda:0 does not work \(CUDA error: uncorrectable ECC"):
        choose_device("cuda")


def test_a_gpu_that_is_not_there_is_answered_with_those_that_are(gpus: Gpus) -> None:
    gpus(None, None)
    with pytest.raises(KitsError, match=r"no cuda:2 here, only cuda:0 \(GPU 0\), cuda:1 \(GPU 1\)"):
        choose_device("cuda:2")


@pytest.mark.parametrize("wanted", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "cpu:0"])
def test_what_is_no_device_is_refused(wanted: str) -> None:
    with pytest.raises(ValueError, match="auto, cpu, cuda or cuda:NUMBER"):
        choose_device(wanted)


def test_a_torch_for_cpus_takes_the_cpu_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.INFO):
        assert choose_device("auto") == torch.device("cpu")
    assert caplog.text == ""
    with pytest.raises(KitsError, match="torch for CPUs; use the GPU image"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("built", "version", "words"),
    [
        (
            "13.0",
            "550.54.15",
            "driver is 550.54.15, but CUDA 13.0 needs 580 or newer; update the driver, take the image",
        ),
        ("12.8", "470.82.01", "driver is 470.82.01, but CUDA 12.8 needs 525 or newer; update the driver, or use"),
        ("13.0", "580.65.06", "driver 580.65.06 shows no GPU; see what `nvidia-smi` lists"),
        ("13.0", "", "driver shows no GPU; see"),
        ("13.0", None, "No NVIDIA driver was found; start the container with --gpus all"),
    ],
)
def test_why_torch_sees_no_gpu_is_said_by_the_driver(
    built: str, version: str | None, words: str, gpus: Gpus, driver_of: Callable[[str | None], None],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    gpus()
    driver_of(version)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(KitsError) as error:
        choose_device("cuda")
    assert words in str(error.value)
    assert str(error.value).endswith("or use --device cpu.")
    assert choose_device("auto") == torch.device("cpu")
    assert words in caplog.text


def test_gpus_that_are_hidden_by_the_environment_are_named(
    gpus: Gpus, driver_of: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus()
    driver_of("580.65.06")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "of those that CUDA_VISIBLE_DEVICES='7' leaves" in why_no_gpu()


def test_the_trial_of_dali_computes() -> None:
    try_dali(None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_trial_of_dali_is_a_graph_that_a_gpu_would_run() -> None:
    with pytest.raises(RuntimeError, match="GPU DALI pipeline while CUDA is not available"):
        try_dali(0)


@pytest.mark.parametrize("trouble", [NO_MEMORY, RuntimeError("CUDA allocation failed"), MemoryError("std::bad_alloc")])
def test_a_gpus_memory_that_runs_out_is_the_cases_error(trouble: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    freed = []
    monkeypatch.setattr(devices, "answers", lambda device: True)
    monkeypatch.setattr(devices, "free_memory", freed.append)
    with pytest.raises(KitsError, match="memory of cuda:0 ran out") as error, explained(torch.device("cuda:0")):
        raise trouble
    assert not isinstance(error.value, DeviceLost)
    assert freed == [torch.device("cuda:0")]


def test_a_gpu_that_refuses_further_work_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    with (
        pytest.raises(DeviceLost, match=r"gave up \(CUDA error: an illegal memory access was .*; --device cpu"),
        explained(torch.device("cuda")),
    ):
        raise RuntimeError("CUDA error: an illegal memory access was encountered.\nCUDA kernel errors might be")


def test_what_is_no_fault_of_the_gpu_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "answers", lambda device: True)
    for device, trouble in (("cuda", RuntimeError("shapes do not match")), ("cpu", MemoryError("much"))):
        with pytest.raises(type(trouble)) as error, explained(torch.device(device)):
            raise trouble
        assert error.value is trouble
