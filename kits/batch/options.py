"""The options of ``kits segment``: each from the command line, else from its environment variable, else a default."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kits.batch.outputs import EXTRAS, Output
from kits.batch.shards import Shard
from kits.choices import Labels, Mode, Precision, Runner
from kits.errors import KitsError, switched_on
from kits.io.forms import SOCKET
from kits.io.stores.url import Url, place
from kits.plan import Plan
from kits.runtime.runtime import DEVICE, Runtime

PACKAGE = Path(__file__).parent.parent
SHIPPED_WEIGHTS = next(
    (at for at in (PACKAGE / "weights", PACKAGE.parent / "weights") if at.is_dir()), PACKAGE / "weights"
)
"""Inside the package where it is installed, beside it in a checkout."""
MOUNTED_WEIGHTS = Path("/opt/ml/model")
"""Where grand-challenge.org mounts weights that were uploaded apart from the container."""

DESCRIPTION = """Finds kidneys and kidney tumours in CT volumes: a folder of volumes in, one label map a case out.

Label maps are uint8 (0 background, 1 kidney, 2 tumour; with --labels kits23 also 3 cyst) on
each scan's own grid. Exit status: 0 all cases done, 1 some
failed or were not reached (the others are written), 2 nothing to do or a wrong call. Each option can come from the
environment instead: --save-probabilities from KITS_SAVE_PROBABILITIES=1, and so on.
"""


@dataclass(frozen=True)
class Options:
    """What a run is told.

    Args:
        input: a volume, a folder in one of the forms of ``kits.io.forms``, or a list of them; here or on a store.
        output: folder for label maps, here or on a store.
        weights: folder with the weight files.
        device: ``auto``, ``cuda``, ``cuda:1`` or ``cpu``.
        mode, engine, precision, mirror, fast: how the cascade runs.
        labels: whose convention label maps follow; None: the plan's.
        plan: TOML file with fields of ``kits.plan.Plan`` that differ from the mode's.
        report: JSON manifest to write.
        zip: submission for KiTS19's leaderboard to pack; ``zip_incomplete``: though cases are missing.
        output_socket: the output's name, where the input's form has one.
        time_limit: seconds from the start of the process.
        skip_existing: leave alone what is done.
        verbose: show tracebacks.
        shard: of the cases, which are this run's.
        ray: address of a Ray cluster whose machines do the cases; empty: this process does them.
        worker_cores: of a machine, how many a worker of the cluster takes.
        in_flight: cases that take turns at the networks, or workers of a cluster that share a GPU; 0: three on a GPU,
            one on a CPU.
        gpus: so many processes do the cases, each on a GPU of this machine; 0: this process does them.
        given: the command line as it was.
        extras: what else is written of each case.
    """

    input: Path | Url
    output: Path | Url
    weights: Path
    device: str
    mode: Mode
    engine: Runner
    precision: Precision
    mirror: bool
    fast: bool
    labels: Labels | None
    plan: Path | None
    report: Path | Url | None
    zip: Path | None
    output_socket: str
    time_limit: float
    skip_existing: bool
    zip_incomplete: bool
    verbose: bool
    shard: Shard
    ray: str
    worker_cores: int
    in_flight: int
    gpus: int
    given: tuple[str, ...]
    extras: tuple[Output, ...]

    @classmethod
    def parse(cls, arguments: Sequence[str] | None, prog: str) -> Options:
        """Read the command line; a wrong one ends the process with status 2 and a sentence, as argparse does."""
        given = tuple(sys.argv[1:] if arguments is None else arguments)
        found = vars(parser(prog).parse_args(given))
        if found["ray"]:  # other processes, which began elsewhere, are to find them
            found = {name: value.absolute() if isinstance(value, Path) else value for name, value in found.items()}
        values = [(kind, found.pop(destination(kind.option))) for kind in EXTRAS]
        extras = tuple(kind(str(value), Path(found["output"])) for kind, value in values if value)
        return cls(**found, given=given, extras=extras)

    def at(self, folder: Path) -> Options:
        """The same with a folder of this machine in place of an output on a store."""
        if isinstance(self.output, Path):
            return self
        return replace(self, output=folder, extras=tuple(extra.at(folder) for extra in self.extras))

    def runtime(self) -> Runtime:
        """How and where the cascade runs.

        Raises:
            InputError: the plan's file cannot be used.
        """
        plan = Plan.of(self.mode)
        plan = Plan.from_toml(self.plan, plan) if self.plan else plan
        plan = replace(
            plan,
            mirror=self.mirror or plan.mirror,
            members=1 if self.fast else plan.members,
            cysts_apart=self.labels == Labels.KITS23 if self.labels else plan.cysts_apart,
        )
        return Runtime(self.device, self.engine, self.precision, plan)


def destination(option: str) -> str:
    """An option's name in Python."""
    return option.strip("-").replace("-", "_")


class Parser(argparse.ArgumentParser):
    """A parser whose options have their defaults in the environment."""

    def option(self, name: str, default: str | None, help: str, **settings: object) -> None:
        """An option with a value; a variable that is set but empty counts as not set."""
        variable = f"KITS_{destination(name).upper()}"
        value = os.environ.get(variable) or default
        self.add_argument(name, default=value, help=f"{help} [{variable}]", **settings)  # type: ignore[arg-type]

    def choice(self, name: str, default: str | None, help: str, choices: Sequence[str], kind: type = str) -> None:
        """An option with few values; argparse's own choices let a wrong default, here the environment's, pass."""

        def check(value: str) -> object:
            if value not in choices:
                raise argparse.ArgumentTypeError(f"{value!r} is none of {', '.join(choices)}")
            return kind(value)

        self.option(name, default, help, type=check, metavar=f"{{{','.join(choices)}}}")

    def switch(self, name: str, help: str) -> None:
        """An option without a value."""
        variable = f"KITS_{destination(name).upper()}"
        self.add_argument(name, action="store_true", default=switched_on(variable), help=f"{help} [{variable}=1]")

    def extra(self, kind: type[Output]) -> None:
        """The option that asks for an output."""
        if not kind.metavar:
            self.switch(kind.option, kind.help)
        elif kind.choices:
            self.choice(kind.option, None, kind.help, kind.choices)
        else:
            self.option(kind.option, None, kind.help, type=lambda text: text and place(text), metavar=kind.metavar)


def parser(prog: str) -> Parser:
    """The options, each with its default from the environment where that names it."""
    result = Parser(prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    option, choice, switch = result.option, result.choice, result.switch
    option("--input", "/input", "volume, folder of volumes, KiTS cases or DICOM series, .csv list of them; a path, or "
           "a URL such as s3://bucket/folder", type=place, metavar="PATH")  # fmt: skip
    option("--output", "/output", "folder for the label maps, a path or a URL", type=place, metavar="DIR")
    option("--weights", str(default_weights()), "folder with the weight files", type=Path, metavar="DIR")
    option("--device", "auto", "where the networks run: auto, cpu, cuda, or one of several GPUs, such as cuda:1",
           type=device, metavar="DEVICE")  # fmt: skip
    choice("--engine", "auto", "what runs them; auto: OpenVINO on a CPU, where it is installed, else torch",
           words(Runner), Runner)  # fmt: skip
    choice("--precision", "auto", "of the networks; auto: fp16 on a GPU; on a CPU bf16 where that is faster, else fp32",
           words(Precision), Precision)  # fmt: skip
    choice("--mode", "native", "native: every slice, by our networks; paper: 3 mm slices, as published",
           words(Mode), Mode)  # fmt: skip
    switch("--mirror", "average stage 2 with what it sees in mirrored slices: twice the time of its networks")
    switch("--fast", "one network of stage 2 instead of all")
    choice("--labels", None, "kits19: cysts are kidney (the default); kits23: they are 3", words(Labels), Labels)
    option("--plan", None, "TOML file with fields of the plan that differ from the mode's (kits/plan.py)", type=Path,
           metavar="FILE")  # fmt: skip
    for kind in EXTRAS:
        result.extra(kind)
    option("--report", None, "JSON manifest: status, volumes, warnings and seconds a case", type=place, metavar="FILE")
    option("--zip", None, "submission for KiTS19's leaderboard, if every case is done", type=path, metavar="FILE")
    option("--output-socket", SOCKET, "name of the output, where the form of the input has one", metavar="NAME")
    option("--time-limit", "inf", "end in time: what is finished by then is written", type=seconds, metavar="SECONDS")
    switch("--skip-existing", "resume: leave alone the cases that are done")
    switch("--zip-incomplete", "write the --zip even if some case failed or was not reached")
    option("--shard", "1/1", "do only the K-th of N shares of the cases", type=shard, metavar="K/N")
    option("--ray", "", "spread the cases over a Ray cluster: its address, or nothing for one of this machine alone",
           nargs="?", const="local", metavar="ADDRESS")  # fmt: skip
    option("--worker-cores", "2", "cores that each worker of the cluster takes", type=count, metavar="N")
    option("--in-flight", "auto", "cases under way at once, where memory allows; auto: 3 on a GPU, 1 on a CPU",
           type=in_flight, metavar="N")  # fmt: skip
    option("--gpus", "0", "a process on each of N GPUs of this machine", type=count, metavar="N")
    switch("--verbose", "show the traceback of what goes wrong")
    return result


def path(text: str) -> Path | None:
    """A path, for argparse; none where nothing is given."""
    return Path(text) if text else None


def words(choices: type[Mode | Runner | Precision | Labels]) -> list[str]:
    """What an option of a few words takes."""
    return [choice.value for choice in choices]


def shard(text: str) -> Shard:
    """A share of the cases, for argparse."""
    try:
        return Shard.parse(text)
    except KitsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def count(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    if not (number := int(text)) >= 0:
        raise ValueError(text)
    return number


def in_flight(text: str) -> int:
    """How many cases are under way, for argparse; 0 is ``auto``."""
    if text == "auto":
        return 0
    if not (number := int(text)) >= 1:
        raise ValueError(text)
    return number


def device(text: str) -> str:
    """A device's name, for argparse."""
    if not DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of auto, cpu, cuda, cuda:0, cuda:1 and so on")
    return text


def default_weights() -> Path:
    """The weights that are mounted, as grand-challenge.org does it, else those that come with the code."""
    return MOUNTED_WEIGHTS if any(MOUNTED_WEIGHTS.glob("*.safetensors")) else SHIPPED_WEIGHTS


def seconds(text: str) -> float:
    """A positive number, for argparse."""
    if not (number := float(text)) > 0:
        raise ValueError(text)
    return number
