"""What a language model adds to generated rows: questions in other words, and reasoning that leads to the gold result.

As in OmniSQL, reasoning is sampled several times and the executed results are voted on. Here the majority must also
agree with the gold, which is right by construction.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import sqlglot

from sqlr1.config import LanguageModel
from sqlr1.data.llm import Client, Prompt
from sqlr1.data.mentions import unmentioned_value
from sqlr1.database import read_schema, schema_text
from sqlr1.evaluate.vote import majority
from sqlr1.prompt import parse_response, prompt_messages
from sqlr1.records import Question
from sqlr1.sandbox import Executor, Limits, Query

_PARAPHRASE = (
    "Rewrite the question about a database in other words, as a person would ask it. Keep its meaning, every value and "
    "every condition. Answer with the new question alone."
)
_LEAST_VALID = 3  # OmniSQL's rule: with fewer samples that run, a vote says nothing


def paraphrase_and_explain(
    rows: Sequence[Question],
    paths: Mapping[str, Path],
    settings: LanguageModel,
    seed: int,
    cache: Path,
    limits: Limits,
    workers: int,
) -> tuple[list[Question], dict[str, int]]:
    """(the rows with the changes that `settings` asks for, counts for the log). `cache` keeps the model's answers.

    Raises InputError as `Client.ask` does.
    """
    drawn = set(random.Random(seed).sample(range(len(rows)), round(settings.paraphrase * len(rows))))
    with Client(settings, cache) as client:
        reworded = iter(paraphrase([rows[i] for i in sorted(drawn)], client))
        rows = [next(reworded) if i in drawn else row for i, row in enumerate(rows)]
        explained: list[Question | None] = [None] * len(rows)
        if settings.reasoning_samples:
            with Executor(workers, limits) as executor:
                explained = explain(rows, paths, client, settings.reasoning_samples, executor)
    counts = {
        "tokens": client.tokens,
        "failed": client.failed,
        "paraphrased": sum(row.template == "paraphrase" for row in rows),
        "explained": sum(row is not None for row in explained),
    }
    return [new or row for row, new in zip(rows, explained, strict=True)], counts


def paraphrase(rows: Sequence[Question], client: Client) -> list[Question]:
    """Rows with the question in the model's words if it still names every value; otherwise unchanged."""
    prompts = [Prompt((("system", _PARAPHRASE), ("user", row.question)), max_tokens=64) for row in rows]
    answers = client.ask(prompts, "paraphrase")
    return [_reworded(row, answer) if answer else row for row, answer in zip(rows, answers, strict=True)]


def _reworded(row: Question, answer: str) -> Question:
    lines = answer.strip().splitlines()
    question = lines[0].strip().strip('"') if len(lines) == 1 else ""
    reworded = replace(row, question=question, template="paraphrase")
    odd_length = len(question.split()) < 3 or len(question) > 4 * len(row.question)
    if odd_length or unmentioned_value(reworded, sqlglot.parse_one(row.sql, read="sqlite")):
        return row
    return reworded


def explain(
    rows: Sequence[Question], paths: Mapping[str, Path], client: Client, samples: int, executor: Executor
) -> list[Question | None]:
    """Rows with a sampled reasoning that led to the gold's result.

    None for a row with fewer than three samples that run, or whose majority disagrees with the gold.
    """
    prompts = [p for row in rows for p in _prompts(row, paths[row.db_id], samples)]
    responses = [parse_response(answer or "") for answer in client.ask(prompts, "reasoning")]
    asked = [row for row in rows for _ in range(samples)]
    queries = [Query(paths[row.db_id], row.sql) for row in rows]
    queries += [Query(paths[row.db_id], response.sql) for row, response in zip(asked, responses, strict=True)]
    fingerprints = executor.fingerprints(queries)
    golds, votes = fingerprints[: len(rows)], fingerprints[len(rows) :]
    explained: list[Question | None] = []
    for number, (row, gold) in enumerate(zip(rows, golds, strict=True)):
        own = slice(number * samples, (number + 1) * samples)
        chosen = majority(votes[own])
        valid = sum(vote is not None for vote in votes[own])
        agrees = chosen is not None and votes[own][chosen] is not None and votes[own][chosen] == gold
        reasoning = responses[own][chosen].think.strip() if agrees and valid >= _LEAST_VALID else ""
        explained.append(replace(row, reasoning=reasoning) if reasoning else None)
    return explained


def _prompts(row: Question, path: Path, samples: int) -> list[Prompt]:
    messages = prompt_messages(schema_text(read_schema(path), "ddl", 2), row.question, row.evidence)
    turns = tuple((m["role"], m["content"]) for m in messages)
    return [Prompt(turns, max_tokens=512, sample=sample) for sample in range(samples)]
