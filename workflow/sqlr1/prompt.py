"""THE prompt and THE response format: one for the cold start, GRPO and inference.

A response is `<think>reasoning</think><answer>...</answer>` with a fenced `sql` block in the answer: each tag exactly
once and in this order. The SQL is in the last `sql` fence of the answer (SQL-R1, section 3.2). Cold-start strategies
(`STRATEGIES`) differ in what they write into this format.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

INSTRUCTION = "Answer with one SQLite query. Format: <think>reasoning</think><answer>```sql\nquery\n```</answer>"

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_RESPONSE = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
_FENCE = re.compile(r"```sql\b(.*?)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Response:
    """A parsed completion. `sql` is empty when there is none; `well_formed` is the paper's format condition F."""

    think: str
    answer: str
    sql: str
    well_formed: bool


def prompt_messages(
    schema_text: str, question: str, evidence: str = "", values: Sequence[str] = ()
) -> list[dict[str, str]]:
    """The chat messages for a question: schema, then values and evidence if any, then the question.

    Never the complexity label. `values` are conditions that the question may mean: `pet.name = 'Rex'`.
    """
    parts = [schema_text.rstrip()]
    if values:
        parts.append(f"Values: {', '.join(values)}")
    if evidence:
        parts.append(f"Evidence: {evidence}")
    parts.append(f"Question: {question}")
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": "\n".join(parts)}]


def format_response(reasoning: str, sql: str) -> str:
    """The response that the cold start teaches; `parse_response` reads it back.

    >>> parse_response(format_response("count the rows", "SELECT count(*) FROM t")).sql
    'SELECT count(*) FROM t'
    """
    return f"<think>{reasoning.strip()}</think><answer>```sql\n{sql.strip()}\n```</answer>"


def parse_response(completion: str) -> Response:
    """Parse a completion. A malformed one still yields its SQL, if any, so that inference can use it.

    Newlines inside the SQL are kept: collapsing them would let a `--` comment swallow the query.
    """
    match = _RESPONSE.fullmatch(completion)
    tags_once = all(completion.count(tag) == 1 for tag in _TAGS)
    think, answer = match.groups() if match else ("", "")
    fences = _FENCE.findall(answer if match else completion)
    sql = fences[-1].strip() if fences else ""
    return Response(think, answer, sql, well_formed=bool(match and tags_once and sql))
