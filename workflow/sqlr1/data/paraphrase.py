"""What a language model adds to generated rows: questions in other words, and reasoning that leads to the gold result.

As in OmniSQL, reasoning is sampled several times and the majority of the executed results decides; here the majority
has to agree with the gold, which is right by construction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import sqlglot

from sqlr1.data.llm import Client, Prompt
from sqlr1.database import read_schema, schema_text
from sqlr1.database.tie_probes import unmentioned_value
from sqlr1.evaluate.vote import majority
from sqlr1.prompt import parse_response, prompt_messages
from sqlr1.records import Question
from sqlr1.sandbox import Executor, Query

_PARAPHRASE = (
    "Rewrite the question about a database in other words, as a person would ask it. Keep its meaning, every value and "
    "every condition. Answer with the new question alone."
)
_LEAST_VALID = 3  # samples that run, below which a vote says nothing


def paraphrase(rows: Sequence[Question], client: Client) -> list[Question]:
    """Rows with the question in the model's words where these still name every value; the others as they were."""
    prompts = [Prompt((("system", _PARAPHRASE), ("user", row.question)), max_tokens=64) for row in rows]
    answers = client.ask(prompts, "paraphrase")
    return [_reworded(row, answer) if answer else row for row, answer in zip(rows, answers, strict=True)]


def _reworded(row: Question, answer: str) -> Question:
    lines = answer.strip().splitlines()
    question = lines[0].strip().strip('"') if len(lines) == 1 else ""
    reworded = replace(row, question=question, template="paraphrase")
    short = len(question.split()) < 3 or len(question) > 4 * len(row.question)
    if short or unmentioned_value(reworded, sqlglot.parse_one(row.sql, read="sqlite")):
        return row
    return reworded


def explain(
    rows: Sequence[Question], paths: Mapping[str, Path], client: Client, samples: int, executor: Executor
) -> list[Question | None]:
    """Rows with a sampled reasoning that led to the gold's result.

    None for a row with fewer than three samples that run (OmniSQL's rule) or whose majority disagrees with the gold.
    """
    prompts = [p for row in rows for p in _prompts(row, paths[row.db_id], samples)]
    responses = [parse_response(answer or "") for answer in client.ask(prompts, "reasoning")]
    queries = [Query(paths[row.db_id], row.sql) for row in rows]
    queries += [Query(paths[row.db_id], r.sql) for row, group in _groups(rows, responses, samples) for r in group]
    fingerprints = executor.fingerprints(queries)
    golds, votes = fingerprints[: len(rows)], fingerprints[len(rows) :]
    explained: list[Question | None] = []
    for number, (row, group) in enumerate(_groups(rows, responses, samples)):
        own = votes[number * samples : (number + 1) * samples]
        chosen = majority(own)
        valid = sum(vote is not None for vote in own)
        agrees = chosen is not None and own[chosen] is not None and own[chosen] == golds[number]
        good = valid >= _LEAST_VALID and agrees and group[chosen].think.strip()
        explained.append(replace(row, reasoning=group[chosen].think.strip()) if good else None)
    return explained


def _prompts(row: Question, path: Path, samples: int) -> list[Prompt]:
    messages = prompt_messages(schema_text(read_schema(path), "ddl", 2), row.question, row.evidence)
    turns = tuple((m["role"], m["content"]) for m in messages)
    return [Prompt(turns, max_tokens=512, sample=sample) for sample in range(samples)]


def _groups(rows: Sequence[Question], responses: Sequence, samples: int) -> list[tuple[Question, Sequence]]:
    return [(row, responses[n * samples : (n + 1) * samples]) for n, row in enumerate(rows)]
