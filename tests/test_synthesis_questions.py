"""Properties of a generated corpus: coverage, styles, variety, determinism."""

import gc
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from sqlgen.corpus import _in_rounds, generate
from sqlgen.generate import GenerationRequest, generate_over, held_out
from sqlgen.populate import build_database
from sqlgen.shapes.catalogue import SHAPES
from sqlgen.sources import Source, described_names, folder_sources
from sqlgen.speakable import SpeakableDatabase
from sqlr1.config import DOMAINS, Synthesize
from sqlr1.data.mentions import unmentioned_value
from sqlr1.data.split import shares
from sqlr1.database.profile import read_profile
from sqlr1.database.sql import sql_class, without_literals
from sqlr1.records import SQL_CLASSES, STYLES, InputError, Question
from sqlr1.sandbox import Executor, Limits

CLASSES = {"Simple": 0.3, "Moderate": 0.3, "Complex": 0.25, "Highly Complex": 0.15}
STYLE_SHARES = Synthesize().styles
ANY = GenerationRequest(0, {}, STYLE_SHARES, seed=0)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    found = [Source(name, folder / name / f"{name}.sqlite", {}) for name in DOMAINS]
    for source in found:
        build_database(source.db_id, 0, source.path)
    return found


@pytest.fixture(scope="module")
def rows(sources, tmp_path_factory):
    order = GenerationRequest(2400, CLASSES, STYLE_SHARES, 0)
    return list(generate(sources, order, Limits(), 2, tmp_path_factory.mktemp("work")))


@pytest.fixture(scope="module")
def parsed(rows):
    return {row.id: sqlglot.parse_one(row.sql, read="sqlite") for row in rows}


def has(*kinds):
    return lambda e: all(e.find(kind) for kind in kinds)


def clause(name):
    return lambda e: any(s.args.get(name) for s in e.find_all(exp.Select))


FEATURES = {
    "distinct": clause("distinct"),
    "range": has(exp.Between),
    "in list": lambda e: any(i.expressions for i in e.find_all(exp.In)),
    "like": has(exp.Like),
    "null": has(exp.Is),
    "date": lambda e: "strftime" in e.sql("sqlite").lower(),
    "or": has(exp.Or),
    "count": has(exp.Count),
    "sum": has(exp.Sum),
    "avg": has(exp.Avg),
    "min": has(exp.Min),
    "max": has(exp.Max),
    "group by": clause("group"),
    "having": clause("having"),
    "order by": clause("order"),
    "limit": clause("limit"),
    "inner join": lambda e: any(not j.side for j in e.find_all(exp.Join)),
    "left join": lambda e: any(j.side == "LEFT" for j in e.find_all(exp.Join)),
    "self join": lambda e: any(
        n > 1
        for s in e.find_all(exp.Select)
        for n in Counter(t.name for t in s.find_all(exp.Table)).values()
        if s.args.get("joins")
    ),
    "three tables": lambda e: any(len(s.args.get("joins") or ()) >= 2 for s in e.find_all(exp.Select)),
    "scalar subquery": lambda e: any(isinstance(s.parent, (exp.EQ, exp.GT, exp.LT)) for s in e.find_all(exp.Subquery)),
    "not in subquery": lambda e: any(i.args.get("query") and isinstance(i.parent, exp.Not) for i in e.find_all(exp.In)),
    "exists": has(exp.Exists),
    "intersect": has(exp.Intersect),
    "except": has(exp.Except),
    "union": has(exp.Union),
    "case": has(exp.Case),
    "cte": has(exp.CTE),
    "recursive cte": lambda e: any(w.args.get("recursive") for w in e.find_all(exp.With)),
    "window": has(exp.Window),
    "superlative": lambda e: e.args.get("limit") is not None and e.args.get("order") is not None,
    "ratio": has(exp.Div),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_feature_occurs(feature, rows, parsed):
    found = [row for row in rows if FEATURES[feature](parsed[row.id])]
    assert len(found) >= 5, f"only {len(found)} rows with {feature}"


@pytest.mark.parametrize("shape", SHAPES["Highly Complex"], ids=lambda shape: shape.__name__)
def test_highly_complex_shape_occurs(shape, rows):
    assert sum(row.template.startswith(f"{shape.__name__}: ") for row in rows) >= 3


def test_one_small_database_yields_many_highly_complex_rows(sources):
    with Executor(workers=1) as executor:
        db = SpeakableDatabase(read_profile(sources[0].path))
        found = list(generate_over(db, "x", {"Highly Complex": 150}, ANY, executor))
    assert len({without_literals(row.sql) for row in found}) == 150


def test_as_many_rows_as_ordered_in_the_classes_ordered(rows, parsed):
    counts = Counter(row.sql_class for row in rows)
    for name, wanted in shares(2400, CLASSES).items():
        assert counts[name] >= 0.95 * wanted
    for row in rows:
        assert row.sql_class == sql_class(parsed[row.id])


def test_all_styles_occur_and_hiding_ones_bring_evidence(rows):
    counts = Counter(row.style for row in rows)
    assert set(counts) == set(STYLES)
    for row in rows:
        assert bool(row.evidence) == (row.style in ("vague", "metaphorical"))


def test_no_surface_template_dominates(rows):
    template, count = Counter(row.template for row in rows).most_common(1)[0]
    assert count <= 0.02 * len(rows), template


def test_every_value_the_sql_filters_on_is_in_the_question(rows, parsed):
    for row in rows:
        assert unmentioned_value(row, parsed[row.id]) is None, row


def test_reasoning_is_short_and_names_the_tables_of_the_query(rows, parsed):
    lengths = sorted(len(row.reasoning.split()) for row in rows)
    assert lengths[len(lengths) // 2] <= 25
    for row in rows:
        for table in parsed[row.id].find_all(exp.Table):
            assert table.name in re.findall(r"\w+", row.reasoning), row


def test_questions_read_as_sentences(rows):
    for row in rows:
        assert row.question[0].isupper() or not row.question[0].isalpha(), row.question
        assert "  " not in row.question
        assert not set(row.question) & set("\x01\x02_{}"), row.question


def test_verbs_agree_with_what_they_ask_for(rows):
    """What is the name of each ..., what is the change of ..."""
    single = r"What are the ((?!and |of )\w+ )*(of (each|every) (?!and )|change of|running total of|cumulative |rank )"
    for row in rows:
        assert not re.match(single, row.question), row.question


def test_long_reasoning_says_what_is_asked(sources):
    with Executor(workers=1) as executor:
        db = SpeakableDatabase(read_profile(sources[0].path))
        found = list(generate_over(db, "x", {"Moderate": 10}, replace(ANY, reasoning="long", seed=1), executor))
    assert all(row.reasoning.startswith("We are asked for") and "The output is" in row.reasoning for row in found)


def test_held_out_templates_are_disjoint(sources, rows):
    with Executor(workers=1) as executor:
        db = SpeakableDatabase(read_profile(sources[0].path))
        other = list(generate_over(db, "x", {"Simple": 20, "Complex": 10}, replace(ANY, held_out=True), executor))
    assert len(other) == 30
    assert all(held_out(row.template) for row in other)
    assert not any(held_out(row.template) for row in rows)


def test_output_does_not_depend_on_the_number_of_processes(sources, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("sqlgen.corpus.WORTH_A_PROCESS", 0)
    order = GenerationRequest(160, CLASSES, STYLE_SHARES, 5)
    one = list(generate(sources[:4], order, Limits(), 1, tmp_path / "one"))
    assert list(generate(sources[:4], order, Limits(), 2, tmp_path / "two")) == one


def test_what_one_database_cannot_yield_the_others_do(sources, tmp_path):
    lonely = tmp_path / "lonely.sqlite"
    with sqlite3.connect(lonely) as connection:
        connection.execute("CREATE TABLE thing (name TEXT)")
        connection.execute("INSERT INTO thing VALUES ('only')")
    found = [Source("lonely", lonely, {}), *sources[:2]]
    rows = list(generate(found, GenerationRequest(120, CLASSES, STYLE_SHARES, 0), Limits(), 1, tmp_path / "work"))
    counts = Counter(row.db_id for row in rows)
    assert counts["lonely"] < 20  # of the 40 that it was asked for
    assert counts.total() == 120
    assert Counter(row.sql_class for row in rows) == shares(120, CLASSES)
    assert len({row.id for row in rows}) == len({(row.db_id, without_literals(row.sql)) for row in rows}) == 120


def test_interrupted_synthesis_goes_on_where_it_was(sources, tmp_path, monkeypatch):
    order = GenerationRequest(60, CLASSES, STYLE_SHARES, 5)
    whole = list(generate(sources[:3], order, Limits(), 1, tmp_path / "whole"))
    asked = []

    def interrupted(db, db_id, *more):
        asked.append(db_id)
        if asked == [source.db_id for source in sources[:2]]:
            raise KeyboardInterrupt
        return generate_over(db, db_id, *more)

    monkeypatch.setattr("sqlgen.corpus.generate_over", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(generate(sources[:3], order, Limits(), 1, tmp_path / "again"))
    assert list(generate(sources[:3], order, Limits(), 1, tmp_path / "again")) == whole
    first, second, third = (source.db_id for source in sources[:3])
    assert asked[:4] == [first, second, second, third]


def test_few_rows_are_in_memory_while_they_are_read(sources, tmp_path):
    rows = generate(
        [Source("read", sources[0].path, {})], GenerationRequest(40, CLASSES, STYLE_SHARES, 5), Limits(), 1, tmp_path
    )
    gc.freeze()  # leaves out the objects from before
    try:
        counts = [sum(type(found) is Question and found.db_id == "read" for found in gc.get_objects()) for _ in rows]
    finally:
        gc.unfreeze()
    assert len(counts) == 40
    assert max(counts) <= 2


def test_output_and_databases_do_not_depend_on_string_hashing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from sqlr1.database.profile import read_profile\n"
        "from sqlr1.sandbox import Executor\n"
        "from sqlr1.config import Synthesize; from sqlgen.generate import GenerationRequest, generate_over\n"
        "from sqlgen.populate import build_database\n"
        "from sqlgen.speakable import SpeakableDatabase; from sqlr1.records import sha256\n"
        "path = Path(sys.argv[1]); build_database('zoo', 3, path)\n"
        "with Executor(workers=1) as executor:\n"
        "    quotas = {'Moderate': 12, 'Complex': 8}\n"
        "    request = GenerationRequest(20, {}, Synthesize().styles, 3)\n"
        "    db = SpeakableDatabase(read_profile(path))\n"
        "    rows = list(generate_over(db, 'zoo', quotas, request, executor))\n"
        "print(sha256(path), rows)"
    )
    outputs = set()
    for number in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": number}
        command = [sys.executable, "-c", code, str(tmp_path / f"{number}.sqlite")]
        outputs.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(outputs) == 1


def test_other_seed_other_questions(sources):
    with Executor(workers=1) as executor:
        db = SpeakableDatabase(read_profile(sources[0].path))
        first, second = (
            list(generate_over(db, "x", {"Simple": 10}, replace(ANY, seed=seed), executor)) for seed in (0, 1)
        )
    assert first != second


def test_shares_add_up():
    assert shares(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}


@pytest.mark.parametrize(("total", "number"), [(4, 20), (100, 3)])
def test_all_is_asked_once_and_few_questions_of_different_sources(total, number):
    asked = []

    def run(tasks):
        for source, quota, _ in tasks:
            asked.append(quota)
            yield Path(source.db_id), Counter(quota)

    sources = [Source(f"d{place}", Path(), {}) for place in range(number)]
    _in_rounds(sources, GenerationRequest(total, dict.fromkeys(SQL_CLASSES, 0.25), STYLE_SHARES, 0), run)
    assert {name: sum(quota[name] for quota in asked) for name in SQL_CLASSES} == dict.fromkeys(SQL_CLASSES, total / 4)
    sizes = [sum(quota.values()) for quota in asked]
    assert len(sizes) == min(total, number)
    assert max(sizes) - min(sizes) <= len(SQL_CLASSES)


def test_spider_training_databases_yield_all_classes(data_root, tmp_path):
    spider = data_root / "spider"
    found = folder_sources(spider / "database", spider / "train_spider.json", spider / "tables.json")
    assert len(found) == 138
    rows = list(generate(found[:20], GenerationRequest(240, CLASSES, STYLE_SHARES, 0), Limits(), 1, tmp_path))
    assert len(rows) == 240
    assert {row.sql_class for row in rows} == set(SQL_CLASSES)


def test_any_database_will_do(data_root):
    path = data_root / "chinook/Chinook_Sqlite.sqlite"
    with Executor(workers=1) as executor:
        db = SpeakableDatabase(read_profile(path))
        rows = list(generate_over(db, "chinook", {"Simple": 10, "Complex": 10}, ANY, executor))
    assert len(rows) == 20


TABLES = {
    "db_id": "pets",
    "table_names_original": ["pet"],
    "column_names_original": [[-1, "*"], [0, "pet_id"], [0, "kind"]],
    "column_names": [[-1, "*"], [0, "pet id"], [0, "species"]],
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"db_id": None}, "None where a name belongs"),
        ({"db_id": ["pets"]}, r"\['pets'\] where a name belongs"),
        ({"table_names_original": [None]}, "None where a name belongs"),
        ({"table_names_original": "pet"}, "'table_names_original' is no list"),
        ({"table_names_original": []}, "list index out of range"),
        ({"column_names_original": [[-1, "*"], [0, "pet_id"], [0, 2020]]}, "2020 where a name belongs"),
        ({"column_names_original": [[-1, "*"], [0, "pet_id"], ["0", "kind"]]}, "'>=' not supported"),
        ({"column_names": [[-1, "*"], [0, "pet id"], [0, None]]}, "None where a name belongs"),
        ({"column_names": [[-1, "*"], [0, "pet id"]]}, "zip"),
        ({"column_names": [[-1, "*"], [0, "pet id"], [0]]}, "not enough values"),
        ({"column_names": [-1, 0, 0]}, "cannot unpack"),
        ({"column_names": None}, "iterable"),
    ],
)
def test_a_malformed_entry_of_tables_json_is_named(tmp_path, change, reason):
    (tmp_path / "tables.json").write_text(json.dumps([TABLES, TABLES | change]))
    with pytest.raises(InputError, match=rf"tables\.json: entry 1 is not in the layout .*{reason}") as error:
        folder_sources(tmp_path, tables=tmp_path / "tables.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pets": TABLES}, r"tables\.json: expected a list of databases, found dict"),
        (5, r"tables\.json: expected a list of databases, found int"),
        ([None], r"tables\.json: entry 0 is not in the layout"),
        (["pets"], r"tables\.json: entry 0 is not in the layout"),
        ([{}], r"tables\.json: entry 0 is not in the layout .*'db_id'"),
    ],
)
def test_a_tables_json_of_another_shape_is_named(tmp_path, content, message):
    (tmp_path / "tables.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        folder_sources(tmp_path, tables=tmp_path / "tables.json")


def test_odd_description_files(tmp_path):
    folder = tmp_path / "database_description"
    folder.mkdir()
    (folder / "pet.csv").write_text("original_column_name,column_name,notes\nkind,species," + "x" * 200_000 + "\n")
    assert described_names(tmp_path / "pets.sqlite") == {("pet", "kind"): "species"}
    for rows in ("kind,\n", "kind, \n", "kind,name\nname,how it is called by those who own it\n"):
        (folder / "pet.csv").write_text(f"original_column_name,column_name\n{rows}")
        assert described_names(tmp_path / "pets.sqlite") == {}
    (folder / "x.csv").mkdir()
    with pytest.raises(InputError, match=r"x\.csv: cannot be read \(Is a directory\)"):
        described_names(tmp_path / "pets.sqlite")


def test_descriptions_that_do_not_tell_columns_apart_are_not_used(data_root):
    folder = data_root / "bird/dev/dev_databases"
    database = folder / "thrombosis_prediction/thrombosis_prediction.sqlite"
    assert len(list(database.parent.glob("database_description/*.csv"))) == 3
    names = described_names(database)
    assert names["examination", "ana"] == "anti nucleus antibody"
    assert not {"kct", "rvvt"} & {column for _, column in names}
