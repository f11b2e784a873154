"""Spider's hardness: the official labels of the whole of Spider dev, and its rules one by one."""

import json
import time

import pytest

from sqlr1.evaluate.hardness import spider_hardness


def test_official_labels_of_spider_dev(data_root):
    official = {
        row["index"]: row["hardness"] for row in json.loads((data_root / "spider/dev_hardness.json").read_text())
    }
    questions = json.loads((data_root / "spider/dev.json").read_text())
    assert len(official) == len(questions) == 1034
    assert {i: spider_hardness(question["query"]) for i, question in enumerate(questions)} == official


@pytest.mark.parametrize(
    ("sql", "hardness"),
    [
        ("SELECT a FROM t", "easy"),
        ("SELECT count(*) FROM t WHERE a = 1", "easy"),
        ("SELECT a, b FROM t", "medium"),
        ("SELECT a FROM t WHERE a = 1 ORDER BY b", "medium"),
        ("SELECT a FROM t WHERE a = 1 AND b = 2", "medium"),
        ("SELECT a FROM t JOIN u ON t.id = u.id WHERE u.c LIKE 'x%'", "hard"),
        ("SELECT a FROM t WHERE a IN (SELECT b FROM u)", "hard"),
        ("SELECT a FROM t WHERE a = 1 UNION SELECT b FROM u", "hard"),
        ("SELECT a FROM t GROUP BY a ORDER BY count(*) LIMIT 1", "hard"),
        ("SELECT a, b FROM t WHERE a > (SELECT avg(a) FROM t) AND b = 1", "extra"),
        ("SELECT a, count(*) FROM t JOIN u ON t.i = u.i WHERE b = 1 OR c = 2 GROUP BY a ORDER BY count(*)", "extra"),
        ("this is no SQL at all (", "unknown"),
        ("SELECT " + "(" * 3_000 + "1" + ")" * 3_000, "unknown"),
    ],
)
def test_rules(sql, hardness):
    assert spider_hardness(sql) == hardness


@pytest.mark.parametrize("start", ["'", '"', "`", "[ ", "/*x", "NOT ", "a,", "("])
def test_any_text_is_read_in_linear_time(start):
    begin = time.process_time()
    spider_hardness("SELECT 1 WHERE " + start * 50_000)
    assert time.process_time() - begin < 1  # in quadratic time: from ten seconds to minutes


@pytest.mark.parametrize(
    ("sql", "hardness"),
    [
        ("SELECT a FROM t WHERE a BETWEEN 1 AND 5", "easy"),
        ("SELECT a FROM t WHERE CASE WHEN a OR b THEN 1 END = 1", "easy"),
        ("SELECT a FROM t -- WHERE, GROUP BY", "easy"),
        ("SELECT 'FROM x WHERE' FROM t", "easy"),
        ("(SELECT a FROM t) EXCEPT (SELECT b FROM u WHERE c > (SELECT 1))", "hard"),
        ("SELECT a FROM t WHERE a > 2 * (SELECT avg(a) FROM t)", "easy"),  # a part of a product is no nested query
        ("SELECT a FROM t, u WHERE NOT (a = 1)", "medium"),
        ("SELECT max(a) FROM t WHERE NOT a LIKE 'x'", "medium"),  # the negation counts as an aggregate
    ],
)
def test_tokens_are_read_as_a_parser_would(sql, hardness):
    assert spider_hardness(sql) == hardness


def test_larger_sql_than_spiders_own_has_a_hardness_too():
    """CTEs, windows and EXISTS do not occur in Spider; the synthetic benchmark in its layout has them."""
    sql = "WITH x AS (SELECT a, rank() OVER (ORDER BY b) AS r FROM t) SELECT a FROM x WHERE EXISTS (SELECT 1 FROM u)"
    assert spider_hardness(sql) in ("easy", "medium", "hard", "extra")
