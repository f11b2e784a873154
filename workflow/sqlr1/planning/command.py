"""What each stage of an experiment will cost: tokens, FLOPs, hours and peak memory of a device, without running it."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sqlr1.config import Config
from sqlr1.config_files import read_config
from sqlr1.planning.lengths import bounds, measured
from sqlr1.planning.shapes import ACCELERATORS, Shape, shape_in, shape_of
from sqlr1.planning.stages import Cost, Planner
from sqlr1.records import InputError
from sqlr1.report.tables import markdown_table


def add_parser(commands: Any) -> None:
    """Add the sub-command `plan` to argparse's sub-parsers."""
    parser = commands.add_parser("plan", help="what an experiment will cost", description=__doc__, allow_abbrev=False)
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], metavar="FILE", help="overlays")
    parser.add_argument("--base", type=Path, default=Path("config.yaml"), metavar="FILE", help="(default: config.yaml)")
    parser.add_argument("--accelerator", choices=ACCELERATORS, default="a100-80gb", help="(default: a100-80gb)")
    parser.add_argument("--mfu", type=float, help="share of the peak that is reached (default: the accelerator's)")
    lengths = "(default: the mean of the experiment's data under results/, else the config's bound)"
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help=f"mean length of a prompt {lengths}")
    parser.add_argument("--completion-tokens", type=int, metavar="N", help=f"mean length of a response {lengths}")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the plan. Raises InputError for a missing file, a faulty config or a model of unknown shape."""
    config = merged(args.base, args.configfile)
    accelerator = ACCELERATORS[args.accelerator]
    mfu = accelerator.mfu if args.mfu is None else args.mfu
    if not 0 < mfu <= 1:
        raise InputError(f"--mfu: {mfu} is not between 0 and 1")
    for name in ("prompt_tokens", "completion_tokens"):
        if (tokens := getattr(args, name)) is not None and tokens < 1:
            raise InputError(f"--{name.replace('_', '-')}: {tokens} is less than 1")
    shape = _shape(config["base_model"])
    given = {"prompt": args.prompt_tokens, "response": args.completion_tokens}
    known = None if all(given.values()) else measured(config, Path("results") / config["experiment"])
    lengths = replace(known or bounds(config), **{name: tokens for name, tokens in given.items() if tokens})
    costs = Planner(config, shape, accelerator, mfu, lengths).costs()
    if args.json:
        print(json.dumps({"experiment": config["experiment"], "stages": [asdict(cost) for cost in costs]}))
        return
    print(f"{config['experiment']}: {shape.parameters / 1e9:.2f} G weights on {args.accelerator}, mfu {mfu}")
    print(f"{lengths.prompt:.0f} prompt tokens, {lengths.response:.0f} of a response on average")
    print("each stage alone, all its runs together\n")
    print(markdown_table(["stage", "runs", "devices", "tokens", "FLOPs", "hours", "GB a device"], map(_line, costs)))
    for cost in costs:
        if cost.memory > accelerator.memory:
            print(f"\n{cost.stage}: does not fit the {accelerator.memory / 1e9:.0f} GB of a device")


def _shape(model: Mapping[str, Any]) -> Shape:
    """Out of a local model's own config.json; else as published."""
    if model["source"] == "path":
        return shape_in(Path(model["name"]))
    return shape_of(model["name"], model.get("file", "") if model["source"] == "wheel" else "")


def merged(base: Path, overlays: list[Path]) -> Config:
    """The config as Snakemake merges it."""
    return read_config([base, *overlays])


def _line(cost: Cost) -> list[Any]:
    numbers = f"{cost.tokens:.3g}", f"{cost.flops:.3g}", f"{cost.hours:.3g}", f"{cost.memory / 1e9:.1f}"
    return [cost.stage, cost.runs, cost.devices, *numbers]
