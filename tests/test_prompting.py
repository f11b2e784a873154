"""The response format: what the cold start teaches is what the parser reads, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqlr1.prompt import format_response, parse_response, prompt_messages

WRITTEN = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="`<>"), max_size=60)


@given(reasoning=WRITTEN, sql=WRITTEN.filter(str.strip))
def test_what_is_written_is_read_back(reasoning, sql):
    response = parse_response(format_response(reasoning, sql))
    assert (response.think, response.sql, response.well_formed) == (reasoning.strip(), sql.strip(), True)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "SELECT 1",
        "<think>a</think><answer>SELECT 1</answer>",
        "<answer>```sql\nSELECT 1\n```</answer><think>a</think>",
        "<think>a<think>b</think><answer>```sql\nSELECT 1\n```</answer>",
        "<think>a</think><answer>```sql\nSELECT 1\n```</answer> and more",
        "<think>a</think><answer>```sql\nSELECT 1\n```",
        "<think>a</think><answer>```sql\n\n```</answer>",
    ],
)
def test_anything_else_is_not_the_format(completion):
    assert not parse_response(completion).well_formed


def test_the_last_fence_counts_and_comments_stay_on_their_line():
    text = "<think></think><answer>first ```sql\nSELECT 1\n``` then ```sql\nSELECT 2 -- two\n+ 1\n```</answer>"
    assert parse_response(text).sql == "SELECT 2 -- two\n+ 1"


def test_the_prompt_has_schema_evidence_and_question_in_that_order():
    system, user = prompt_messages("pet(name, age)\n", "How many pets?", "Pets are animals.")
    assert (system["role"], user["role"]) == ("system", "user")
    assert user["content"] == "pet(name, age)\nEvidence: Pets are animals.\nQuestion: How many pets?"
