"""Checks a configuration and reads it from files, with one clear line for each fault."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sqlr1.config import SECTIONS, Config, Section, unknown_key
from sqlr1.config_checks import faults
from sqlr1.records import InputError, read_yaml

# What pydantic adds to the path of a key: the member of a union, and whether a mapping's key is at fault.
_OF_PYDANTIC = re.compile(r"\[|^(int|float|str|constrained-.*)$")
_NOT_TEXT = re.compile(r"-?\d*\.?\d+(e[-+]?\d+)?|true|false|null", re.IGNORECASE)  # if YAML reads it without quotes


def load(config: Mapping[str, Any]) -> Config:
    """The whole configuration, with the home folder for `~/`. Raises InputError naming every faulty key."""
    found = _validated(Config, _expanded(config), "")
    if lines := [f"config key {fault}" for fault in faults(found)]:
        raise InputError("; ".join(lines))
    return found


def _expanded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _expanded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner) for inner in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def load_sections(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a stage's settings as models, other values as they are.

    Raises InputError naming every fault, and when a section is read that was not given.
    """
    found, faults = _Given(), []
    for name, value in settings.items():
        try:
            found[name] = _validated(SECTIONS[name], value, f"{name}.") if name in SECTIONS else value
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("; ".join(faults))
    return found


class _Given(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        raise InputError(f"--settings: section {name!r} is missing; {{}} takes its defaults")


def read_config(paths: Sequence[Path]) -> Config:
    """The configuration in several YAML files, each over those before it, as Snakemake merges them.

    Raises InputError for a missing file or a faulty key.
    """
    from snakemake.utils import update_config

    config: dict[str, Any] = {}
    for path in paths:
        update_config(config, read_yaml(path))
    return load(config)


def _validated(model: type[Section], values: Any, prefix: str) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError("; ".join(dict.fromkeys(_line(model, fault, prefix) for fault in error.errors()))) from None


def _line(model: type[Section], fault: ErrorDetails, prefix: str) -> str:
    """`config key grpo.learning_rat: unknown; did you mean 'learning_rate'?`"""
    location = [str(part) for part in fault["loc"] if not _OF_PYDANTIC.search(str(part))]
    location += [part for part in [fault.get("ctx", {}).get("key", "")] if part]
    line = f"config key {prefix}{'.'.join(location)}: "
    value = fault["input"]
    match fault["type"]:
        case "extra_forbidden":
            return line + unknown_key(location[-1], _known_keys(model, location[:-1]))
        case "missing":
            return line + "missing"
        case "config":
            return line + fault["ctx"]["message"]
        case "finite_number":
            return line + f"{value} is not a finite number"
    if isinstance(value, str) and re.fullmatch(r"-?\d+e-?\d+", value):
        return line + f"{value!r} is a string; YAML needs a dot in a number: write 1.0e-4, not 1e-4"
    if isinstance(value, str) and fault["type"].endswith("_type") and _NOT_TEXT.fullmatch(value):
        return (
            line + f"{value!r} is text: remove its quotes; a value within --config's braces belongs in a --configfile"
        )
    return line + f"{value!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _known_keys(model: type[Section], location: Sequence[str]) -> list[str]:
    """The keys of the section at `location` below `model`, through lists, mappings and optional sections."""
    for part in location:
        if part in (keys := {field.alias or name: field for name, field in model.model_fields.items()}):
            model = next(_sections_in(keys[part].annotation), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _sections_in(part)
