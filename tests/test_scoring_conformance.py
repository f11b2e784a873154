"""Agreement with the official evaluators: documented rules case by case, and verdicts on real predictions."""

import json
import sqlite3

import pytest

from sqlr1.evaluate.metrics import r_ves
from sqlr1.sandbox import Executor, Limits, Pair, is_ordered, mend
from sqlr1.sandbox.judging import remove_distinct

METRICS = ("bird_ex", "spider_exec", "spider_exec_keep_distinct", "soft_f1")
ORDERED, REVERSED = "SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a DESC"

# Gold, prediction, and what BIRD EX, Spider exec, keep_distinct and Soft-F1 give.
CASES = {
    "both empty, unrelated": ("SELECT a FROM t WHERE 0", "SELECT c FROM u WHERE c > 99", 1, 1, 1, 1.0),
    "both empty, other column count": ("SELECT a FROM t WHERE 0", "SELECT c, c FROM u WHERE 0", 1, 1, 1, 1.0),
    "empty against one NULL row": ("SELECT a FROM t WHERE 0", "SELECT max(a) FROM t WHERE 0", 0, 0, 0, 0.0),
    "one NULL row against empty": ("SELECT max(a) FROM t WHERE 0", "SELECT a FROM t WHERE 0", 0, 0, 0, 0.0),
    "lacks DISTINCT": ("SELECT DISTINCT d FROM t", "SELECT d FROM t", 1, 1, 0, 1.0),
    "one DISTINCT too many": ("SELECT d FROM t", "SELECT DISTINCT d FROM t", 1, 1, 0, 1.0),
    "COUNT for COUNT DISTINCT": ("SELECT count(DISTINCT d) FROM t", "SELECT count(d) FROM t", 0, 1, 0, 0.0),
    "wrong order, ORDER BY": (ORDERED, REVERSED, 1, 0, 0, 1 / 3),
    "wrong order, none": ("SELECT a FROM t", REVERSED, 1, 1, 1, 1 / 3),
    "ORDER BY in a subquery": (f"SELECT * FROM ({ORDERED})", REVERSED, 1, 0, 0, 1 / 3),
    "two columns swapped": ("SELECT a, s FROM t", "SELECT s, a FROM t", 0, 1, 1, 1.0),
    "one column too many": ("SELECT a FROM t", "SELECT a, s FROM t", 0, 0, 0, 2 / 3),
    "2 against 2.0": ("SELECT 2", "SELECT 2.0", 1, 1, 1, 1.0),
    "text against number": ("SELECT 2", "SELECT '2'", 0, 0, 0, 0.0),
    "rounding": ("SELECT 0.3", "SELECT 0.1 + 0.2", 0, 0, 0, 0.0),
    "NULL against 'None'": ("SELECT NULL", "SELECT 'None'", 0, 0, 0, 0.0),
    "prediction fails": ("SELECT a FROM t", "SELECT nope FROM t", 0, 0, 0, 0.0),
    "a lucky constant": ("SELECT count(*) FROM t", "SELECT 3", 1, 1, 1, 1.0),
    "Spider mends operators": ("SELECT a FROM t WHERE a >= 2", "SELECT a FROM t WHERE a > = 2", 0, 1, 1, 0.0),
    "semicolons at the end": ("SELECT a FROM t;", "SELECT a FROM t;;", 0, 1, 0, 0.0),
    "a code fence at the end": ("SELECT a FROM t", "SELECT a FROM t;\n```", 0, 1, 0, 0.0),
    "IS DISTINCT FROM": ("SELECT a FROM t WHERE d = 6", "SELECT a FROM t WHERE d IS DISTINCT FROM 5", 1, 1, 1, 1.0),
    "IS DISTINCT FROM in the gold": ("SELECT a FROM t WHERE d IS NOT DISTINCT FROM 6", "SELECT 3", 1, 1, 1, 1.0),
    "Spider mends the year": ("SELECT 2020", "SELECT YEAR(CURDATE())", 0, 1, 1, 0.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("db") / "t.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE t (a, s, d); INSERT INTO t VALUES (1, 'x', 5), (2, 'y', 5), (3, 'z', 6);"
        "CREATE TABLE u (c); INSERT INTO u VALUES (7);"
        "CREATE TABLE v AS SELECT a AS value FROM t;"
    )
    connection.close()
    return path


@pytest.fixture(scope="module")
def executor():
    with Executor(workers=2, limits=Limits(seconds=3.0)) as executor:
        yield executor


# Accidents of Spider's evaluator, described in `evaluate.metrics`: there, each of these predictions is wrong.
ACCIDENTS = {
    "cells sorted by their text": ("SELECT 2, 25", "SELECT 2.0, 25"),
    "blanks after the year": ("SELECT a FROM t", "SELECT a FROM t WHERE 2020 = YEAR(CURDATE()) AND a"),
    "a column called value": ("SELECT a FROM t WHERE a > 1", "SELECT value FROM v WHERE value > 1"),
}  # fmt: skip


@pytest.mark.parametrize(("gold", "predicted"), ACCIDENTS.values(), ids=ACCIDENTS)
def test_accidents_of_the_official_evaluator_are_not_repeated(executor, database, gold, predicted):
    assert executor.judge([Pair(database, gold, predicted)], "spider")[0].verdict == "match"


def test_the_accidents_are_as_described():
    """By the documented algorithm: the sort key of a cell, and the two rewritings of the text."""
    ours, theirs = (sorted(row, key=lambda cell: str(cell) + str(type(cell))) for row in ((2, 25), (2.0, 25)))
    assert ours != theirs
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError, match="unrecognized token"):
        connection.execute("SELECT 1 WHERE 2020 = 2020AND 1")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_documented_semantics(executor, database, case):
    gold, predicted, *expected = case
    [judgement] = executor.judge([Pair(database, gold, predicted)], "spider", METRICS)
    assert [judgement.metrics[metric] for metric in METRICS] == pytest.approx(expected)
    for semantics, value in zip(("bird", "spider", "spider_keep_distinct"), expected[:3], strict=True):
        [judgement] = executor.judge([Pair(database, gold, predicted)], semantics)
        assert (judgement.verdict == "match") == bool(value)


def official_files():
    spider = ["dail_sql_gpt_4", "graphix_result", "pred_sqls_codes_1b_spider", "pred_sqls_codes_7b_spider"]
    bird = ["15b_bird_with_evidence", "1b_bird", "7b_bird_with_evidence"]
    return [f"spider_dev.{name}" for name in spider] + [f"bird_superhero.predict_dev_codes_{name}" for name in bird]


@pytest.mark.parametrize("name", official_files())
def test_official_verdicts_on_real_predictions(executor, data_root, name):
    """Without exception. The rows of wta_1 that read its empty table were judged on the same files, and agree too."""
    if name.startswith("spider"):
        semantics, verdict, databases = "spider", "official_exec_match", data_root / "spider/database"
    else:
        semantics, verdict, databases = "bird", "official_ex", data_root / "bird/dev/dev_databases"
    rows = [json.loads(line) for line in (data_root / f"predictions/{name}.jsonl").read_text().splitlines()]
    pairs = [Pair(databases / r["db_id"] / f"{r['db_id']}.sqlite", r["gold"], r["predicted"]) for r in rows]
    judgements = executor.judge(pairs, semantics)
    differing = [
        (row["index"], judgement.verdict, row[verdict])
        for row, judgement in zip(rows, judgements, strict=True)
        if (judgement.verdict == "match") != bool(row[verdict])
    ]
    assert differing == []
    assert not {judgement.verdict for judgement in judgements} & {"gold_failed", "gold_timed_out", "missing_database"}


def test_every_official_file_is_tested(data_root):
    assert sorted(path.stem for path in (data_root / "predictions").glob("*.jsonl")) == sorted(official_files())


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT DISTINCT a FROM t", "SELECT  a FROM t"),
        ("select count(distinct a), 'DISTINCT' from t", "select count( a), 'DISTINCT' from t"),
        ('SELECT "distinct", `distinct`, [distinct] FROM t', 'SELECT "distinct", `distinct`, [distinct] FROM t'),
        ("SELECT 'it''s distinct' -- distinct\n, DISTINCT a", "SELECT 'it''s distinct' -- distinct\n,  a"),
        ("SELECT DISTINCT a IS /* b */ NOT\nDistinct FROM 1", "SELECT  a IS /* b */ NOT\nDistinct FROM 1"),
        ("SELECT b.this, DISTINCT this DISTINCT", "SELECT b.this,  this "),
        ("SELECT distinctly, a_distinct FROM t", "SELECT distinctly, a_distinct FROM t"),
    ],
)
def test_distinct_is_removed_as_a_keyword_only(sql, expected):
    assert remove_distinct(sql) == expected


def test_mending_and_order():
    assert mend("a > = 1 AND b < = 2 AND c ! = year ( curdate ( ) )") == "a >= 1 AND b <= 2 AND c != 2020"
    assert is_ordered("SELECT a FROM (SELECT a FROM t Order By a)")
    assert not is_ordered("SELECT a FROM orders")


@pytest.mark.parametrize(
    ("ratios", "reward"),
    [([2.0], 1.25), ([1.99, 1.0], 1.0), ([1.0], 1.0), ([0.5], 0.75), ([0.25], 0.5), ([0.1], 0.25), ([], 0.0)],
)
def test_r_ves_steps(ratios, reward):
    assert r_ves(ratios) == pytest.approx(reward**0.5)


def test_r_ves_drops_outliers():
    """Twenty runs at 1.0 and one at 100: the outlier lies beyond three deviations, without it the mean is 1."""
    assert r_ves([1.0] * 20 + [100.0]) == 1.0


def test_r_ves_of_real_runs(executor, database):
    """A prediction that does a hundred times the work is slower than its gold; an equal one is about as fast."""
    gold = "SELECT count(*) FROM t"
    slow = "SELECT (SELECT count(*) FROM t) FROM t a, t b, t c, t d, t e, t f, t g, t h, t i, t j GROUP BY 1"
    equal, slower = executor.race([Pair(database, gold, gold), Pair(database, gold, slow)], repeats=7)
    assert len(equal.ratios) == len(slower.ratios) == 7
    assert r_ves(slower.ratios) == 0.5 < r_ves(equal.ratios)
