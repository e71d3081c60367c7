"""Weight files: safetensors with their metadata, and a SHA-256 list beside them.

A weight file says what it is: its role in the cascade, its architecture, the HU window, mean and standard
deviation of its input, what it was trained on and under which licence it may be used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from kits.choices import Mode, Role
from kits.errors import WeightsError
from kits.networks import ARCHITECTURES
from kits.normalisation import Normalisation

FORMAT = "kits-cascade 1"
CHECKSUMS = "SHA256SUMS"
OWN_CHECKSUM = "sha256"
"""The metadata in which a weight file tells the checksum of all else that it holds."""


@dataclass(frozen=True)
class WeightsInfo:
    """What a weight file says of itself.

    Args:
        role: its stage.
        architecture: a key of ``kits.networks.ARCHITECTURES``.
        norm: window, mean and standard deviation (HU) of its input.
        trained_on: the data, in a sentence.
        licence: under which the weights may be used.
        modes: which modes run it; a file that does not say so is for all.
        held_out: patients that it never learned from, nor from anything made of them; None: it does not say.
        classes: 3, or 4 where cysts are a class of their own.
    """

    role: Role
    architecture: str
    norm: Normalisation
    trained_on: str
    licence: str
    modes: tuple[Mode, ...] = tuple(Mode)
    held_out: tuple[str, ...] | None = None
    classes: int = 3


@dataclass(frozen=True)
class Member:
    """A network in evaluation mode, with what its weight file says."""

    name: str
    network: nn.Module
    info: WeightsInfo


def save_weights(path: Path, network: nn.Module, info: WeightsInfo) -> None:
    """Write a weight file: convolutions in half precision, batch norm in single.

    Written aside and renamed, so that a weight file is whole or absent.
    """
    state = network.state_dict()
    tensors = {
        name: tensor.detach().cpu().to(torch.float32 if is_norm(name, state) else torch.float16).contiguous()
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }
    metadata = {key: str(value) for key, value in asdict(info).items() if key not in ("norm", "modes", "held_out")}
    metadata |= {
        "modes": " ".join(info.modes),
        "format": FORMAT,
        "hu_window": f"{info.norm.window[0]} {info.norm.window[1]}",
        "mean": repr(info.norm.mean),
        "std": repr(info.norm.std),
    }
    if info.held_out is not None:
        metadata["held_out"] = " ".join(info.held_out)
    metadata[OWN_CHECKSUM] = own_checksum(tensors, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    save_file(tensors, aside, metadata)
    aside.replace(path)


def own_checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of what a weight file holds, which it tells of itself: no change goes unnoticed."""
    checksum = hashlib.sha256()
    for key, value in sorted(metadata.items()):
        if key != OWN_CHECKSUM:
            checksum.update(f"{key}: {value}\n".encode())
    for name, tensor in sorted(tensors.items()):
        checksum.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        checksum.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return checksum.hexdigest()


def is_norm(name: str, names: Container[str]) -> bool:
    """Whether a tensor belongs to a batch norm, by the statistics that lie beside it."""
    return f"{name.rpartition('.')[0]}.running_mean" in names


def load_member(path: Path, listed: bool = True) -> Member:
    """Read one weight file.

    Args:
        path: the file.
        listed: whether a list vouches for it; else it must carry its own checksum.

    Raises:
        WeightsError: the file is truncated or changed, no safetensors file, not one of this project's, or not finite.
    """
    remedy = "fetch it again, or train it with `python -m train`"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}); {remedy}.") from error
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path} was not made by this project (format {metadata.get('format')!r}, expected {FORMAT!r}); {remedy}."
        )
    if metadata.get(OWN_CHECKSUM, own := own_checksum(stored, metadata)) != own:
        raise WeightsError(f"{path} was changed after it was written (its own checksum differs); {remedy}.")
    if not (listed or OWN_CHECKSUM in metadata):
        raise WeightsError(
            f"{path} carries no checksum, and there is no {CHECKSUMS} beside it; fetch that too, or, if the file is "
            f"your own, make it: cd {path.parent} && sha256sum *.safetensors > {CHECKSUMS}."
        )
    tensors = {name: tensor.float() for name, tensor in stored.items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise WeightsError(f"{path} has NaN or infinite weights in {name}; {remedy}.")
    try:
        low, high = map(float, metadata["hu_window"].split())
        norm = Normalisation(float(metadata["mean"]), float(metadata["std"]), (low, high))
        if not (isfinite(norm.mean) and 0 < norm.std < inf and low < high):
            raise ValueError(f"mean {norm.mean}, standard deviation {norm.std}, window {norm.window}")
        info = WeightsInfo(
            Role(metadata["role"]),
            metadata["architecture"],
            norm,
            metadata["trained_on"],
            metadata["licence"],
            tuple(Mode(mode) for mode in metadata.get("modes", " ".join(Mode)).split()),
            tuple(metadata["held_out"].split()) if "held_out" in metadata else None,
            int(metadata.get("classes", "3")),
        )
        network = ARCHITECTURES[info.architecture](info.classes)
        missing, unexpected = network.load_state_dict(tensors, strict=False)
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if missing or unexpected:
            raise ValueError(f"{len(missing)} tensors missing, {len(unexpected)} unknown")
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} does not fit its own description ({reason}); {remedy}.") from error
    return Member(path.name.removesuffix(".safetensors"), network.eval().requires_grad_(False), info)


def load_members(folder: Path) -> tuple[list[Member], list[Member]]:
    """Read a weights folder: the networks of stage 1 and those of stage 2, each list sorted by name.

    Raises:
        WeightsError: no folder, no file of one of the roles, a file that differs from its checksum in
            ``SHA256SUMS`` (when that file is there), or networks of one stage that want different inputs.
    """
    remedy = "point --weights at the folder with the *.safetensors files"
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise WeightsError(f"No weights: {folder} holds no *.safetensors file; {remedy}.")
    for path in paths:
        if not path.is_file():
            raise WeightsError(f"{path} is named like a weight file but is none; remove or rename it.")
    verify_checksums(folder, paths)
    members = [load_member(path, (folder / CHECKSUMS).exists()) for path in paths]
    stages = tuple([member for member in members if member.info.role == role] for role in Role)
    for role, stage in zip(Role, stages, strict=True):
        if not stage:
            raise WeightsError(f"{folder} holds no weight file of role {role.value!r}; {remedy}.")
        if len({member.info.norm for member in stage}) > 1:
            names = ", ".join(member.name for member in stage)
            raise WeightsError(f"{folder}: {names} were trained on different normalisations; keep one kind.")
    return cast(tuple[list[Member], list[Member]], stages)


def verify_checksums(folder: Path, paths: Sequence[Path]) -> None:
    """Compare weight files with the folder's ``SHA256SUMS``, where there is one.

    Raises:
        WeightsError: a file is not listed, listed but absent, or differs from what is listed.
    """
    listing = folder / CHECKSUMS
    if not listing.exists():
        return
    lines = re.findall(r"^([0-9a-f]{64}) [ *](.+)$", listing.read_text(errors="replace"), re.MULTILINE)
    expected = {name: digest for digest, name in lines}
    for name in sorted(set(expected) | {path.name for path in paths}):
        if not (folder / name).exists():
            raise WeightsError(f"{folder / name} is listed in {listing} but absent; fetch the weights again.")
        if expected.get(name) != sha256(folder / name):
            raise WeightsError(
                f"{folder / name} is not the file that {listing} lists (damaged, truncated or foreign); "
                f"fetch the weights again, or remove {CHECKSUMS} if the file is your own."
            )


def write_checksums(folder: Path) -> None:
    """List the SHA-256 of every weight file of a folder in the form that ``sha256sum --check`` reads."""
    lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(folder.glob("*.safetensors"))]
    (folder / CHECKSUMS).write_text("".join(lines))


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
