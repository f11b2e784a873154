"""Kinds of error: injected into golds, by what the sandbox says, and compared between two files."""

import json
import sqlite3
import sys
from pathlib import Path

import pytest
from sqlglot import exp

from sqlr1.cli import main
from sqlr1.database.sql import features, parse, to_sql
from sqlr1.evaluate.errors import KINDS, add_kinds, primary_counts, query_kinds
from sqlr1.evaluate.evaluator import evaluate
from sqlr1.evaluate.formats import Answers, BenchmarkQuestion
from sqlr1.prompt import Response
from sqlr1.records import write_jsonl
from sqlr1.report.policies import ScoreRun
from sqlr1.report.score_tables import error_markdown, error_rows
from sqlr1.sandbox import Executor, Limits
from sqlr1.statistics import Bootstrap

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from mutants import mutants

GOLD = "SELECT T1.a, count(*) FROM t AS T1 JOIN u AS T2 ON T1.id = T2.t_id WHERE T2.c = 'France' GROUP BY T1.a"
CASES = {
    GOLD.replace("France", "france"): "literal_case",
    GOLD.replace("France", "Fran-ce"): "literal_format",
    GOLD.replace("France", "Spain"): "literal",
    GOLD.replace("'France'", '"Spain"'): "literal",
    GOLD.replace("WHERE", "WHERE T1.b > 2 AND"): "predicate_extra",
    GOLD.replace("T2.c =", "T2.d ="): "predicate",
    GOLD.replace("T2.t_id", "T2.id"): "join_key",
    GOLD.replace("u AS", "v AS"): "tables",
    GOLD.replace("GROUP BY T1.a", "GROUP BY T1.b"): "group_having",
    GOLD + " HAVING count(*) > 1": "group_having",
    GOLD + " LIMIT 1": "order_limit",
    GOLD + " UNION SELECT 1, 2": "set_operation",
    GOLD.replace("T1.a,", "T1.a, T1.b,"): "columns_extra",
    GOLD.replace("T1.a, c", "c"): "columns_missing",
    GOLD.replace("T1.a, count(*)", "count(*), T1.a"): "columns_order",
    GOLD.replace("SELECT T1.a", "SELECT T1.b"): "columns",
    GOLD.replace("SELECT T1.a", "SELECT T2.a"): "columns",
    GOLD.lower().replace("france", "France").replace("t1", "x"): "other",
}
BY_MUTANT = {
    "dropped predicate": "predicate_missing", "other aggregate": "aggregate", "other join": "join",
    "other comparison": "predicate", "off by one": "literal", "distinct": "distinct", "other direction": "order_limit",
}  # fmt: skip


@pytest.mark.parametrize("predicted", CASES)
def test_one_change_has_its_kind(predicted):
    assert query_kinds(predicted, GOLD)[0] == CASES[predicted]


def test_added_columns_are_a_candidate_for_a_disputed_gold():
    assert query_kinds("SELECT a, b FROM t", "SELECT a FROM t") == ["columns_extra", "gold_disputed"]


def _expected(kind: str, mutant: exp.Expression, gold: exp.Expression) -> str:
    """The clause that the mutant changed, where a kind of change applies to several."""
    if features(mutant)["subqueries"] != features(gold)["subqueries"]:
        return "nesting"
    for clause, name in ((exp.Having, "group_having"), (exp.Limit, "order_limit")):
        if list(gold.find_all(clause)) != list(mutant.find_all(clause)):
            return name
    return BY_MUTANT[kind]


def test_kinds_of_mutants_of_spiders_golds(data_root):
    """At least 95 % of the changes to 200 golds get their kind (one of each kind in a gold). Takes 10 s."""
    rows = json.loads((data_root / "spider/dev.json").read_text())
    golds = [parse(sql)[0] for sql in list(dict.fromkeys(row["query"] for row in rows))[::2][:200]]
    assert len(golds) == 200
    right = []
    for gold in golds:
        for kind, mutant in dict(mutants(gold)).items():
            right.append(query_kinds(to_sql(mutant), to_sql(gold))[0] == _expected(kind, mutant, gold))
    assert len(right) > 400
    assert sum(right) / len(right) >= 0.95


def test_what_the_sandbox_says(tmp_path):
    (tmp_path / "zoo").mkdir()
    with sqlite3.connect(tmp_path / "zoo/zoo.sqlite") as database:
        database.executescript("CREATE TABLE pet (name); INSERT INTO pet VALUES ('Rex'), ('Tom');")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    given = {
        "": "no_sql", "SELECT a FROM cat": "unknown_table", "SELECT age FROM pet": "unknown_column",
        "SELECT FROM pet WHERE": "syntax", endless: "time_out", "PRAGMA table_info(pet)": "refused",
        "SELECT count(*) FROM pet": "aggregate",
    }  # fmt: skip
    questions = [BenchmarkQuestion(i, "zoo", "q", "", "SELECT name FROM pet", "easy") for i in range(len(given))]
    answers = {i: Answers(Response("", "", sql, True), []) for i, sql in enumerate(given)}
    with Executor(workers=1, limits=Limits(seconds=0.5)) as executor:
        rows = evaluate(executor, "spider", questions, tmp_path, answers).rows
    add_kinds(rows)
    assert [row["greedy"]["kinds"][0] for row in rows] == list(given.values())
    assert list(primary_counts(rows)) == [kind for kind in KINDS if kind in given.values()]


def test_compare(tmp_path, capsys):
    def line(index: int, *kinds: str) -> dict:
        return {"index": index, "verdict": "mismatch" if kinds else "match", "kinds": list(kinds)}

    write_jsonl(tmp_path / "a.jsonl", [line(0, "join"), line(1), line(2, "tables", "join"), line(3)])
    write_jsonl(tmp_path / "b.jsonl", [line(0), line(1, "literal_case"), line(2, "join"), line(3)])
    main(["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    shown = capsys.readouterr().out
    assert shown.startswith("4 questions in both; B - A: +0.0")
    assert "p = 1" in shown
    assert "won: 1\n    1  join (0)\nlost: 1\n    1  literal case (1)\n" in shown
    assert "wrong in both: 1, 1 of them of another kind" in shown
    write_jsonl(tmp_path / "b.jsonl", [{"index": 0, "verdict": "match"}])
    with pytest.raises(SystemExit, match="--kinds"):
        main(["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])


def test_the_report_pairs_kinds_before_and_after_grpo():
    def scored(reward: str, kinds: list[str]) -> ScoreRun:
        rows = [{"id": str(i), "greedy": {"kinds": [kind] if kind else []}} for i, kind in enumerate(kinds)]
        return ScoreRun({"strategy": "none", "reward": reward, "benchmark": "b", "seed": 0}, rows)

    runs = [scored("no_rl", ["join", "join", "tables", ""]), scored("full", ["", "join", "", ""])]
    panels = error_rows("none", "full", runs, Bootstrap(resamples=100))
    found = [(kind, e["before"].value, e["after"].value) for kind, e in panels["b"]]
    assert found == [("tables", 0.25, 0), ("join", 0.5, 0.25)]
    assert "| b | join | 2: 50.0 [" in error_markdown(panels)
