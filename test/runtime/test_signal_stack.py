"""A signal after models were released is an ordinary KeyboardInterrupt, not the end of Python."""

import importlib.util
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="OpenVINO is not installed")

RELEASED_THEN_INTERRUPTED = """
    import gc, signal, sys, threading
    import torch
    from kits.networks import WideUNet
    from kits.runtime.openvino import compile_with_openvino

    def compile_all():
        models.extend(compile_with_openvino(WideUNet().eval(), torch.float32) for _ in range(2))

    models = []
    compile_all() if sys.argv[1] == "main" else [t := threading.Thread(target=compile_all), t.start(), t.join()]
    models[0](torch.zeros(1, 5, 256, 256))
    while models:
        models.pop(0)  # in the order they came
        gc.collect()
    for _ in range(20):
        try:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # not to a thread of the library
            sum(range(10**6))
            print("no interrupt")
        except KeyboardInterrupt:
            print("interrupted")
"""


@pytest.mark.parametrize("thread", ["main", "another"])
def test_ctrl_c_after_models_were_released_interrupts(thread: str) -> None:
    """In a child process, since the failure is its end."""
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RELEASED_THEN_INTERRUPTED), thread],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == ["interrupted"] * 20
