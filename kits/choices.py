"""What options and descriptions may be, each as an enum whose members are the words that people write."""

from enum import Enum

KIDNEY, TUMOUR, CYST = 1, 2, 3
"""What label maps call them; 0 is background. To KiTS19 cysts are kidney."""


class Choice(str, Enum):
    """A word out of a few."""

    def __str__(self) -> str:
        return self.value


class Mode(Choice):
    """How the cascade runs: every slice by our networks, or 3 mm slices as published."""

    NATIVE = "native"
    PAPER = "paper"


class Labels(Choice):
    """Whose labels: KiTS19's, to which cysts are kidney, or those of KiTS21 and KiTS23, where they are 3."""

    KITS19 = "kits19"
    KITS23 = "kits23"


class Role(Choice):
    """What a network is for: stage 1, or a member of stage 2."""

    LOCATE = "locate"
    SEGMENT = "segment"


class Runner(Choice):
    """What runs the networks; ``auto`` is OpenVINO on a CPU where it is installed, else torch."""

    AUTO = "auto"
    OPENVINO = "openvino"
    TORCH = "torch"


class Precision(Choice):
    """In which numbers networks compute; ``auto`` is the fastest that keeps the labels."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Status(Choice):
    """What became of a case in a run."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    NOT_REACHED = "not reached"
