"""Checks of a whole configuration, and what the workflow's jobs inherit from the process that runs them."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlr1.records import InputError
from sqlr1.schema import check_keys, unknown_line


def check(config: Mapping[str, Any]) -> None:
    """Raise InputError naming every faulty key of `config`: unknown, missing, of the wrong type, out of range, or at
    odds with another.
    """
    check_keys(config)
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


def _check_domains(synthesize: Mapping[str, Any]) -> None:
    known = [path.stem for path in (Path(__file__).parents[1] / "sqlgen/domains").glob("*.yaml")]
    for key in ("domains", "held_out_domains"):
        if unknown := [name for name in synthesize[key] if name not in known]:
            raise InputError(unknown_line(f"synthesize.{key}", unknown[0], known))
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
