"""Constrained answers can be every gold that the generator writes."""

import pytest
from tiny_models import tiny_model, tiny_tokenizer

from sqlgen.corpus import generate
from sqlgen.generate import GenerationRequest
from sqlgen.sources import builtin_sources
from sqlr1.config import Synthesize
from sqlr1.model.constraint import Grammars
from sqlr1.prompt import format_response
from sqlr1.records import SQL_CLASSES
from sqlr1.sandbox import Limits


@pytest.mark.parametrize(
    ("domains", "count"),
    [(["bank"], 40), pytest.param(["farm", "school", "zoo"], 120, marks=pytest.mark.slow)],
)
def test_every_gold_of_the_generator_is_accepted(tmp_path, domains, count):
    """Questions of all classes; over three databases it takes some 12 s."""
    sources = builtin_sources(domains, tmp_path / "databases", 0)
    (tmp_path / "work").mkdir()
    request = GenerationRequest(count, dict.fromkeys(SQL_CLASSES, 0.25), Synthesize().styles, 5)
    path = {source.db_id: source.path for source in sources}
    rows = list(generate(sources, request, Limits(), 1, tmp_path / "work"))
    tokenizer = tiny_tokenizer()
    grammars = Grammars(tokenizer, tiny_model(), [2])

    def accepted(row):
        ids = tokenizer(format_response("", row.sql), add_special_tokens=False)["input_ids"]
        matcher = grammars.over([path[row.db_id]], [[0]])._matchers[0]
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    assert len(rows) > 0.9 * count
    assert [row.sql for row in rows if not accepted(row)] == []
