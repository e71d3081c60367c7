"""Configuration files: TOML tables that change a preset, and say where the data are and which phases there are."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import TypeAdapter, ValidationError

from kits.errors import InputError
from kits.networks import ARCHITECTURES

from .config import Config, Data, Phase, Simulated
from .losses import TERMS
from .presets import NETWORKS, PRESETS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


TABLES = ("data", "training", "simulate", *NETWORKS)
PHASE = tuple(field.name for field in fields(Phase) if field.name != "config")
"""What a phase's table says of the phase; all else in it is of ``Config``."""


def read_settings(*paths: Path) -> dict[str, Any]:
    """Configuration files' tables, of which later ones change what earlier ones say; none is an empty one.

    ``[data]`` says where the cases are, ``[training]`` changes every network's preset, ``[res-unet1]`` and so on one's,
    ``[[res-unet1.phases]]`` are the phases of its training, and ``[[simulate]]`` scans to make before.

    Raises:
        InputError: no such file, no TOML, or a table of another name.
    """
    together: dict[str, Any] = {}
    for path in paths:
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path} is not a readable TOML file: {error}.") from error
        for name in settings:
            if name not in TABLES:
                raise InputError(f"{path} has a table [{name}]; known are {', '.join(TABLES)}.")
        together = _merge(together, settings)
    return together


def data_of(settings: dict[str, Any]) -> Data:
    """The ``[data]`` table of some settings."""
    return _checked(Data, settings.get("data", {}), "data")


def simulated_of(settings: dict[str, Any]) -> tuple[Simulated, ...]:
    """The ``[[simulate]]`` tables of some settings."""
    return tuple(_checked(Simulated, table, "simulate") for table in settings.get("simulate", []))


def config_of(network: str, preset: str, settings: dict[str, Any], phase: str = "") -> Config:
    """One network's training: the preset with what the settings change; with a phase's name, what that changes, too.

    Raises:
        InputError: the preset has no such network, or the settings no such phase, or they are wrong.
    """
    if phase:
        return phase_of(network, preset, settings, phase).config
    return _config(network, preset, settings, {})


def phases_of(network: str, preset: str, settings: dict[str, Any]) -> tuple[Phase, ...]:
    """The phases of one network's training: one of all its steps, where the settings name none.

    Raises:
        InputError: as ``config_of``, or two phases have one name.
    """
    phases = []
    for number, table in enumerate(settings.get(network, {}).get("phases", [{}]), 1):
        about = {"name": str(number)} | {key: value for key, value in table.items() if key in PHASE}
        config = _config(network, preset, settings, {key: v for key, v in table.items() if key not in PHASE})
        phases.append(_checked(Phase, about | {"config": config}, f"{network}, phase {about['name']}"))
    if twice := {one.name for one in phases if sum(one.name == other.name for other in phases) > 1}:
        raise InputError(f"{network} has several phases of the name {', '.join(sorted(twice))}; give each its own.")
    return tuple(phases)


def phase_of(network: str, preset: str, settings: dict[str, Any], name: str) -> Phase:
    """The phase of a name."""
    phases = {phase.name: phase for phase in phases_of(network, preset, settings)}
    if name not in phases:
        raise InputError(f"{network} has no phase {name!r}; its phases are {', '.join(phases)}.")
    return phases[name]


def data_in(phase: Phase, data: Data) -> Data:
    """The data as a phase takes them: other shares, other patients to validate on.

    Raises:
        InputError: it gives a share to a folder that is no source.
    """
    names = [source.path.name for source in data.sources]
    if strange := sorted(set(phase.source_shares) - set(names)):
        raise InputError(f"Phase {phase.name} gives a share to {', '.join(strange)}; sources are {', '.join(names)}.")
    sources = tuple(replace(s, share=phase.source_shares.get(s.path.name, s.share)) for s in data.sources)
    return replace(data, sources=sources, valid=data.valid if phase.valid is None else phase.valid)


def _config(network: str, preset: str, settings: dict[str, Any], changes: dict[str, Any]) -> Config:
    if network not in PRESETS[preset]:
        raise InputError(f"The preset {preset} has no {network}; its networks are {', '.join(PRESETS[preset])}.")
    merged = asdict(PRESETS[preset][network])
    own = {key: value for key, value in settings.get(network, {}).items() if key != "phases"}
    for table in (settings.get("training", {}), own, changes):
        merged = _merge(merged, table)
    config = _checked(Config, merged, network)
    for what, name, known in (
        ("architecture", [config.architecture], ARCHITECTURES),
        ("loss", config.loss.terms, TERMS),
    ):
        if strange := sorted(set(name) - set(known)):
            raise InputError(f"{network}: there is no {what} {', '.join(strange)}; known are {', '.join(known)}.")
    if config.classes > 3 and not ARCHITECTURES[config.architecture].tells_cysts:
        able = ", ".join(name for name, one in ARCHITECTURES.items() if one.tells_cysts)
        text = f"{config.architecture} does not tell cysts apart; set classes = 3, or take {able}."
        raise InputError(f"{network}: {text}")
    return config


def to_toml(settings: dict[str, Any]) -> str:
    """Settings as a configuration file; what is None is left out."""
    return tomli_w.dumps(_plain(settings))


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, table by table."""
    nested = {
        k: _merge(base[k], v) for k, v in changes.items() if isinstance(v, dict) and isinstance(base.get(k), dict)
    }
    return base | changes | nested


def _plain(value: Any) -> Any:
    """Only what TOML knows: no None, no paths, no tuples."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _checked(kind: type[Any], values: dict[str, Any], table: str) -> Any:
    """Build a dataclass, telling a person which setting is wrong."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise InputError(f"The configuration of {table} is wrong: {reasons}.") from error
