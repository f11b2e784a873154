"""Checks of the configuration against its schema, with one clear line for each fault."""

import difflib
import math
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
    _check_numbers(config)
    _check_domains(config["synthesize"])
    for section, key, one in (
        ("synthesize", "classes", "class"),
        ("synthesize", "styles", "style"),
        ("filter", "classes", "class"),
    ):
        if not sum(config[section].get(key, {"": 1}).values()):
            raise InputError(f"config key {section}.{key}: no {one} has a share above 0")
    low, high = config["select"]["low"], config["select"]["high"]
    if low > high:
        raise InputError(f"config key select.low: {low} is above select.high, {high}")
    _check_groups(config)


def _check_numbers(value: Any, key: str = "") -> None:
    """YAML's .nan and .inf pass every comparison that a schema can make."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_numbers(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"config key {key}: {value} is not a finite number")


def _check_domains(synthesize: Mapping[str, Any]) -> None:
    known = [path.stem for path in (Path(__file__).parent / "synthesis/domains").glob("*.yaml")]
    for key in ("domains", "held_out_domains"):
        if unknown := [name for name in synthesize[key] if name not in known]:
            raise InputError(_unknown(f"synthesize.{key}", unknown[0], known))
    if both := sorted(set(synthesize["domains"]) & set(synthesize["held_out_domains"])):
        raise InputError(f"config key synthesize.held_out_domains: {', '.join(both)} also stands in synthesize.domains")


def _check_groups(config: Mapping[str, Any]) -> None:
    """A batch of rollouts holds whole groups; several processes (a launcher) share one, and TRL counts them itself."""
    grpo = config["grpo"]
    if config["launch"]["grpo"] != "python":
        return
    batch = grpo.get("per_device_train_batch_size", 8) * grpo.get("gradient_accumulation_steps", 1)
    if batch % grpo["num_generations"]:
        raise InputError(
            f"config key grpo.num_generations: {grpo['num_generations']} does not divide the {batch} completions of a "
            "step (per_device_train_batch_size * gradient_accumulation_steps)"
        )


def prepare_environment(data_root: str, package_root: str) -> str:
    """Set what the workflow's jobs inherit, and return the data root: SQLR1_DATA if it is set, else `data_root`."""
    root = os.environ.get("SQLR1_DATA") or data_root
    inherited = os.environ.get("PYTHONPATH")
    os.environ["SQLR1_DATA"] = root
    os.environ["PYTHONPATH"] = os.pathsep.join([package_root, inherited] if inherited else [package_root])
    # `python` in a rule is the one that runs Snakemake, unless the rule's conda environment brings its own.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Threads that spin for long while they wait make two jobs on the same cores tens of times slower; threads that
    # sleep at once make small products, of which decoding consists, half as fast. Read by libgomp (torch on Linux).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
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
    if error.validator in ("anyOf", "oneOf", "not"):
        return [
            f"config key {key}: {error.instance!r} is not one of the allowed forms: {error.schema.get('description')}"
        ]
    return [f"config key {key or '(top level)'}: {error.message}"]


def _unknown(key: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
    return f"config key {key + '.' if key else ''}{name}: unknown; {hint}"
