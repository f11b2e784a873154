"""The schema of the configuration: which keys there are and what they may hold, with one clear line for each fault."""

import difflib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from sqlr1.records import InputError

SCHEMA = Path(__file__).parents[1] / "schemas/config.schema.yaml"
# JSON's 6.0 is an integer; Python's is none, and fails where a number of rows is asked.
_integers = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
_Validator = extend(Draft202012Validator, type_checker=_integers)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, empty where the file is. Raises InputError naming it where it is missing or holds
    something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(read, dict):
        raise InputError(f"{path}: not a mapping of config sections")
    return read


def check_keys(config: Mapping[str, Any]) -> None:
    """Raise InputError naming every faulty key of a whole configuration: unknown, missing, of the wrong type, or out of
    range.
    """
    _check(config, read_yaml(SCHEMA))


def check_section(name: str, values: Mapping[str, Any]) -> None:
    """Raise InputError naming every faulty key of one section, as a stage by itself gets it; keys may be missing."""
    schema = read_yaml(SCHEMA)
    section = schema["properties"][name] | {"required": []}
    _check({name: values}, {"$defs": schema["$defs"], "properties": {name: section}})


def _check(values: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    errors = sorted(_Validator(schema).iter_errors(values), key=lambda e: list(map(str, e.absolute_path)))
    if errors:
        raise InputError("; ".join(dict.fromkeys(line for error in errors for line in _explain(error))))
    _check_numbers(values)


def _check_numbers(value: Any, key: str = "") -> None:
    """YAML's .nan and .inf pass every comparison that a schema can make."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_numbers(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"config key {key}: {value} is not a finite number")


def _explain(error: ValidationError) -> list[str]:
    key = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        known = list(error.schema.get("properties", {}))
        return [unknown_line(key, name, known) for name in error.instance if name not in known]
    if error.validator == "type" and isinstance(error.instance, str) and re.fullmatch(r"-?\d+e-?\d+", error.instance):
        return [
            f"config key {key}: {error.instance!r} is a string; YAML needs a dot in a number: write 1.0e-4, not 1e-4"
        ]
    if error.validator in ("anyOf", "oneOf", "not"):
        return [
            f"config key {key}: {error.instance!r} is not one of the allowed forms: {error.schema.get('description')}"
        ]
    return [f"config key {key or '(top level)'}: {error.message}"]


def unknown_line(key: str, name: str, known: list[str]) -> str:
    """The line for `name`, which is none of the `known` ones under `key`."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
    return f"config key {key + '.' if key else ''}{name}: unknown; {hint}"
