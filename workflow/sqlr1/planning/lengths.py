"""How long prompts and responses are: as given, as measured on an experiment's data, or the bounds of its config."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sqlr1.records import Catalogue, Question, read_records


@dataclass(frozen=True)
class Lengths:
    """Tokens. Means decide FLOPs and hours, the longest ones memory."""

    prompt: float
    response: float
    longest_prompt: int
    longest_response: int


def bounds(config: Mapping[str, Any]) -> Lengths:
    """The longest lengths that the config allows, as means too; a cold start's responses, which it does not limit, are
    taken to be as long as GRPO's may be.
    """
    prompt, response = config["prompt"]["max_length"], config["grpo"].get("max_completion_length", 256)
    return Lengths(prompt, response, prompt, response)


def measured(config: Mapping[str, Any], results: Path) -> Lengths | None:
    """Lengths of the cold start's rows in the folder `results` of an experiment; None where it has none yet."""
    questions, catalogue = results / "filter/cold_start.jsonl", results / "synthesize/catalogue.jsonl"
    model = results / "base_model/model"
    if not (questions.is_file() and catalogue.is_file() and (model / "tokenizer.json").is_file()):
        return None
    from sqlr1.model.base import load_tokenizer
    from sqlr1.model.prompts import Prompts
    from sqlr1.train.sft import IGNORED, encode

    databases = Catalogue(catalogue, Path(os.environ.get("SQLR1_DATA", config["data"]["root"])))
    prompts = Prompts(load_tokenizer(model), config["prompt"])
    rows, _ = encode(read_records(questions, Question), databases, prompts, config["cold_start"]["strategy"])
    if not rows:
        return None
    asked = [int((row["labels"] == IGNORED).sum()) for row in rows]
    answered = [len(row["labels"]) - prompt for row, prompt in zip(rows, asked, strict=True)]
    return Lengths(fmean(asked), fmean(answered), max(asked), max(answered))
