"""Checks of the configuration against its schema, with one clear line for each fault."""

import difflib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from sqlr1.records import InputError


def check(config: Mapping[str, Any], schema_file: Path) -> None:
    """Raise InputError naming every faulty key of `config`: unknown, missing, of the wrong type, out of range, or at
    odds with another.
    """
    schema = yaml.safe_load(Path(schema_file).read_text(encoding="utf-8"))
    errors = sorted(Draft202012Validator(schema).iter_errors(config), key=lambda e: list(map(str, e.absolute_path)))
    if errors:
        raise InputError("; ".join(dict.fromkeys(line for error in errors for line in _explain(error))))
    synthesize = config["synthesize"]
    if both := sorted(set(synthesize["domains"]) & set(synthesize["held_out_domains"])):
        raise InputError(f"config key synthesize.held_out_domains: {', '.join(both)} also stands in synthesize.domains")
    for section, key, one in (
        ("synthesize", "classes", "class"),
        ("synthesize", "styles", "style"),
        ("filter", "classes", "class"),
    ):
        if not sum(config[section].get(key, {"": 1}).values()):
            raise InputError(f"config key {section}.{key}: no {one} has a share above 0")


def prepare_environment(data_root: str, package_root: str) -> str:
    """Set what the workflow's jobs inherit, and return the data root: SQLR1_DATA if it is set, else `data_root`."""
    root = os.environ.get("SQLR1_DATA") or data_root
    inherited = os.environ.get("PYTHONPATH")
    os.environ["SQLR1_DATA"] = root
    os.environ["PYTHONPATH"] = os.pathsep.join([package_root, inherited] if inherited else [package_root])
    # `python` in a rule is the one that runs Snakemake, unless the rule's conda environment brings its own.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Threads that spin while they wait make two jobs on the same cores tens of times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return root


def _explain(error: ValidationError) -> list[str]:
    key = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        known = list(error.schema.get("properties", {}))
        return [_unknown(key, name, known) for name in error.instance if name not in known]
    if error.validator == "type" and isinstance(error.instance, str) and re.fullmatch(r"-?\d+e-?\d+", error.instance):
        return [
            f"config key {key}: {error.instance!r} is a string; YAML needs a dot in a number: write 1.0e-4, not 1e-4"
        ]
    if error.validator in ("anyOf", "oneOf"):
        return [
            f"config key {key}: {error.instance!r} fits none of the allowed forms: {error.schema.get('description')}"
        ]
    return [f"config key {key or '(top level)'}: {error.message}"]


def _unknown(key: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
    return f"config key {key + '.' if key else ''}{name}: unknown; {hint}"
