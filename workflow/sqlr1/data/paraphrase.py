"""What a language model adds to generated rows: questions in other words, and reasoning that leads to the gold result.

As in OmniSQL, reasoning is sampled several times and the executed results are voted on. Here the majority must also
agree with the gold, which is right by construction.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import sqlglot

from sqlr1.config import LEAST_VOTES, LanguageModel
from sqlr1.data.llm import Client, Prompt
from sqlr1.data.mentions import unmentioned_value
from sqlr1.database.schema import read_schema
from sqlr1.database.text import schema_text
from sqlr1.evaluate.vote import majority
from sqlr1.prompt import parse_response, prompt_messages
from sqlr1.records import Question
from sqlr1.sandbox import Executor, Limits, Query

_PARAPHRASE = (
    "Rewrite the question about a database in other words, as a person would ask it. Keep its meaning, every value and "
    "every condition. Answer with the new question alone."
)


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
    counts = {"tokens": client.tokens, "failed": client.failed}
    counts["paraphrased"] = sum(row.template == "paraphrase" for row in rows)
    counts["explained"] = sum(row is not None for row in explained)
    return [new or row for row, new in zip(rows, explained, strict=True)], counts


def paraphrase(rows: Sequence[Question], client: Client) -> list[Question]:
    """Rows with the question in the model's words if it still names every value; otherwise unchanged."""
    prompts = [Prompt((("system", _PARAPHRASE), ("user", row.question)), max_tokens=64) for row in rows]
    return [_reworded(row, answer or "") for row, answer in zip(rows, client.ask(prompts, "paraphrase"), strict=True)]


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
    prompts = []
    for row in rows:
        schema = schema_text(read_schema(paths[row.db_id]), "ddl", 2)
        turns = tuple((m["role"], m["content"]) for m in prompt_messages(schema, row.question, row.evidence))
        prompts += [Prompt(turns, max_tokens=512, sample=sample) for sample in range(samples)]
    responses = [parse_response(answer or "") for answer in client.ask(prompts, "reasoning")]
    sampled = [responses[start : start + samples] for start in range(0, len(responses), samples)]
    queries = []
    for row, own in zip(rows, sampled, strict=True):
        queries += [Query(paths[row.db_id], sql) for sql in (row.sql, *(response.sql for response in own))]
    fingerprints = iter(executor.fingerprints(queries))
    explained: list[Question | None] = []
    for row, own in zip(rows, sampled, strict=True):
        gold, *votes = islice(fingerprints, samples + 1)
        valid = sum(vote is not None for vote in votes)
        agrees = valid >= LEAST_VOTES and votes[majority(votes)] == gold
        reasoning = own[majority(votes)].think.strip() if agrees else ""
        explained.append(replace(row, reasoning=reasoning) if reasoning else None)
    return explained
