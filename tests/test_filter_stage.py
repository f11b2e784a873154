"""How the kept rows are split, and what the stage writes."""

import json
from dataclasses import replace

import datasets
import pytest
from music import FAILING, GOOD, row, write_database

from sqlr1.config import Filter
from sqlr1.data.split import balanced, divide, held_out, split
from sqlr1.evaluate.formats import read_questions
from sqlr1.records import SQL_CLASSES, InputError, Question, RecordFile, read_json, write_jsonl
from sqlr1.report.card import data_card
from sqlr1.stages.filter import main


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return write_database(tmp_path_factory.mktemp("filter") / "music.sqlite")


def test_balanced_fills_up_from_other_classes():
    assert balanced({"a": 100, "b": 2, "c": 100}, 20, {"a": 1, "b": 1, "c": 2}) == {"a": 6, "b": 2, "c": 12}
    assert balanced({"a": 1, "b": 1}, 10, {"a": 1, "b": 1}) == {"a": 1, "b": 1}


def test_split_is_disjoint_and_of_the_classes_allowed():
    classes = {number: SQL_CLASSES[number % 4] for number in range(400)}
    sizes = {"validation": 20, "rl": 60, "cold_start": 200}
    subsets = split(classes, sizes, ["Complex", "Highly Complex"], dict.fromkeys(SQL_CLASSES, 1), 0)
    assert {name: len(subsets[name]) for name in sizes} == sizes
    assert {classes[n] for name in ("rl", "validation") for n in subsets[name]} == {"Complex", "Highly Complex"}
    assert sorted(number for subset in subsets.values() for number in subset) == list(classes)
    assert subsets == split(classes, sizes, ["Complex", "Highly Complex"], dict.fromkeys(SQL_CLASSES, 1), 0)


def test_scarce_classes_are_shared():
    classes, sizes = dict.fromkeys(range(40), "Complex"), {"validation": 10, "rl": 40, "cold_start": 50}
    subsets = split(classes, sizes, ["Complex"], dict.fromkeys(SQL_CLASSES, 1), 0)
    assert {name: len(subsets[name]) for name in sizes} == {"validation": 4, "rl": 16, "cold_start": 20}


def test_validation_is_drawn_from_the_rows_held_out_for_it_and_training_from_the_others():
    classes = {number: SQL_CLASSES[number % 4] for number in range(400)}
    sizes = {"validation": 20, "rl": 60, "cold_start": 200}
    subsets = split(classes, sizes, ["Simple", "Complex"], dict.fromkeys(SQL_CLASSES, 1), 0, range(80))
    assert {name: len(subsets[name]) for name in sizes} == sizes
    assert set(subsets["validation"]) <= set(range(80))
    assert min(subsets["rl"] + subsets["cold_start"]) >= 80
    assert {classes[n] for name in ("rl", "validation") for n in subsets[name]} == {"Simple", "Complex"}
    assert sorted(number for subset in subsets.values() for number in subset) == list(classes)


@pytest.mark.parametrize("for_validation", [(), range(100)])
def test_no_form_is_in_two_of_test_validation_and_training(for_validation):
    """Three rows have one form, in classes of their own, so that a draw by rows would cut most forms in two."""
    classes = {number: SQL_CLASSES[number % 4] for number in range(300)}
    forms = {number: number % 100 for number in classes}
    sizes = {"test": 20, "validation": 20, "rl": 60, "cold_start": 100}
    weights = dict.fromkeys(SQL_CLASSES, 1)
    subsets = split(classes, sizes, SQL_CLASSES, weights, 0, for_validation, forms)
    kept = [{forms[n] for n in subsets[name]} for name in ("test", "validation")]
    kept.append({forms[n] for name in ("rl", "cold_start") for n in subsets[name]})
    assert len(set().union(*kept)) == sum(map(len, kept))
    assert len(subsets["test"]) == 20
    assert sorted(number for subset in subsets.values() for number in subset) == list(classes)
    assert subsets == split(classes, sizes, SQL_CLASSES, weights, 0, for_validation, forms)


def test_a_test_as_large_as_the_training_gets_half_of_too_few_rows():
    classes = dict.fromkeys(range(40), "Simple")
    sizes = {"test": 50, "validation": 0, "rl": 25, "cold_start": 25}
    subsets = split(classes, sizes, ["Simple"], dict.fromkeys(SQL_CLASSES, 1), 0, forms={n: n for n in classes})
    assert {name: len(subsets[name]) for name in sizes} == {"test": 20, "validation": 0, "rl": 10, "cold_start": 10}


def test_databases_are_held_out_by_seed_and_never_all():
    names = [name for name in "fcbaed" for _ in range(3)]
    assert len(held_out(names, 2, 0)) == 2
    assert held_out(names, 2, 0) == held_out(names[::-1], 2, 0)
    assert len({held_out(names, 2, seed) for seed in range(9)}) > 1
    with pytest.raises(InputError, match=r"filter.validation_databases: 6 of the 6 databases"):
        held_out(names, 6, 0)


@pytest.fixture
def stage_inputs(database, tmp_path):
    write_jsonl(tmp_path / "questions.jsonl", [GOOD, FAILING])
    entry = {"db_id": "music", "path": str(database), "source": "x", "split": "train", "sha256": ""}
    write_jsonl(tmp_path / "catalogue.jsonl", [entry])
    settings = {
        "filter": {"validation_rows": 1, "rl_rows": 1, "cold_start_rows": 5, "rl_classes": ["Complex"]},
        "execution": {},
    }
    return [
        *("--settings", json.dumps(settings), "--out", str(tmp_path / "out")),
        *("--questions", str(tmp_path / "questions.jsonl"), "--catalogue", str(tmp_path / "catalogue.jsonl")),
    ]


def test_stage_writes_subsets_dropped_rows_and_funnel(stage_inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(stage_inputs)
    out = tmp_path / "out"
    assert json.loads((out / "cold_start.jsonl").read_text())["id"] == GOOD.id
    assert json.loads((out / "dropped.jsonl").read_text())["reason"] == "failed"
    funnel = read_json(out / "funnel.json")
    assert funnel["input"] == 2
    assert sum(funnel["dropped"].values()) + sum(funnel["subsets"].values()) == 2
    card = (out / "README.md").read_text()
    assert "| failed | 1 |" in card
    assert "| timed_out | 0 |" in card
    assert "| failed | `music` | What? | `SELECT colour FROM singer` |" in card
    assert "| Simple | 0 | 0 | 1 |" in card
    assert datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))["cold_start"][0]["sql"] == GOOD.sql
    assert "cold_start.jsonl" in read_json(out / "manifest.json")["outputs"]


def test_stage_sets_a_benchmark_apart_by_sql_up_to_literals(stage_inputs, tmp_path, monkeypatch):
    """Rows of one form over one database are `duplicate`, unless the rules allow two."""
    monkeypatch.chdir(tmp_path)
    rows = [
        row(f"SELECT {column} FROM singer WHERE age = {age}", f"Which {column} at {word}? {age}", 2 * n + k)
        for n, column in enumerate(("name", "country", "singer_id", "name, country", "country, name", "age, name"))
        for k, (age, word) in enumerate(((30, "thirty"), (50, "fifty years")))
    ]
    write_jsonl(tmp_path / "questions.jsonl", [*rows, replace(GOOD, evidence="a hint")])
    settings = json.loads(stage_inputs[1])
    settings["filter"] |= {"test_rows": 5, "rl_classes": ["Simple"], "rules": {"max_per_sql": 2, "near_duplicate": 1.0}}
    main([stage_inputs[0], json.dumps(settings), *stage_inputs[2:]])
    names = ("test", "validation", "rl", "cold_start")
    found = {name: list(RecordFile(tmp_path / f"out/{name}.jsonl", Question)) for name in names}
    assert all(found.values())
    forms = {name: {q.sql.partition(" = ")[0] for q in subset} for name, subset in found.items()}
    assert not forms["test"] & (forms["validation"] | forms["rl"] | forms["cold_start"])
    assert not forms["validation"] & (forms["rl"] | forms["cold_start"])
    benchmark = read_questions("spider", tmp_path / "out/test.json")
    assert [(q.question, q.gold, q.evidence) for q in benchmark] == [
        (q.question, q.sql, q.evidence) for q in found["test"]
    ]
    funnel = read_json(tmp_path / "out/funnel.json")
    assert funnel["subsets"]["test"] == len(benchmark) == 5
    assert sum(funnel["dropped"].values()) + sum(funnel["subsets"].values()) == 13


def test_without_test_rows_the_benchmark_is_empty(stage_inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(stage_inputs)
    assert read_json(tmp_path / "out/test.json") == []
    assert "test" not in read_json(tmp_path / "out/funnel.json")["subsets"]


@pytest.mark.parametrize(
    ("feature", "sql"),
    [
        ("left joins", "SELECT a.x FROM a LEFT JOIN b ON a.i = b.i"),
        ("DISTINCT", "SELECT COUNT(DISTINCT x) FROM a"),
        ("LIKE", "SELECT x FROM a WHERE y LIKE 'b%'"),
        ("HAVING", "SELECT x FROM a GROUP BY x HAVING COUNT(*) > 1"),
        ("ORDER BY", "SELECT x FROM a ORDER BY x"),
        ("LIMIT", "SELECT x FROM a WHERE y = (SELECT y FROM b ORDER BY y LIMIT 1)"),
    ],
)
def test_the_card_counts_the_features_of_sql(feature, sql):
    rows = [row(sql), row("SELECT x, RANK() OVER (ORDER BY x) FROM a JOIN b ON a.i = b.i")]
    card = data_card({"cold_start": rows}, {"input": 2, "dropped": {}}, {}, "Data")
    assert f"| {feature} | 1 |" in card


def test_stage_drops_what_is_over_the_quota_of_a_style_or_a_subset(stage_inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    countries = [f"SELECT {column} FROM singer" for column in ("name", "country", "age", "singer_id")]
    rows = [row(sql, f"Question {n}: {sql}?", n, style="formal" if n else "vague") for n, sql in enumerate(countries)]
    write_jsonl(tmp_path / "questions.jsonl", rows)
    settings = json.loads(stage_inputs[1])
    for most, kept in ((None, 3), (0.2, 2)):
        settings["filter"] |= {"cold_start_rows": 3} | ({"max_per_style": most} if most else {})
        main([stage_inputs[0], json.dumps(settings), *stage_inputs[2:]])
        funnel = read_json(tmp_path / "out/funnel.json")
        assert funnel["subsets"]["cold_start"] == kept
        assert funnel["dropped"]["over_quota"] == 4 - kept
    assert funnel["styles"]["cold_start"] == {"formal": 1, "vague": 1}


@pytest.fixture
def four_databases(stage_inputs, database, tmp_path):
    """Inputs of the stage over four databases with two rows each, the first one of another style, and its settings."""
    more = replace(GOOD, sql="SELECT age FROM singer", question="How old is each?", style="formal")
    rows = [replace(r, id=f"{r.style}-{n}", db_id=f"music{n}") for n in range(4) for r in (GOOD, more)]
    write_jsonl(tmp_path / "questions.jsonl", rows)
    entry = {"path": str(database), "source": "x", "split": "train", "sha256": ""}
    write_jsonl(tmp_path / "catalogue.jsonl", [entry | {"db_id": f"music{n}"} for n in range(4)])
    settings = json.loads(stage_inputs[1])
    settings["filter"] |= {"validation_rows": 9, "validation_databases": 1, "rl_rows": 3, "cold_start_rows": 3}
    settings["filter"]["rl_classes"] = ["Simple"]
    return stage_inputs, settings


def databases_of(subset):
    return [question.db_id for question in RecordFile(subset, Question)]


def test_stage_keeps_whole_databases_for_validation(four_databases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, settings = four_databases
    main([arguments[0], json.dumps(settings), *arguments[2:]])
    found = {name: databases_of(tmp_path / f"out/{name}.jsonl") for name in ("validation", "rl", "cold_start")}
    assert len(found["validation"]) == 2
    assert len(found["rl"] + found["cold_start"]) == 6
    assert len(set(found["validation"])) == 1
    assert not set(found["validation"]) & set(found["rl"] + found["cold_start"])


def test_stage_counts_only_databases_that_have_rows_under_the_quota_of_a_style(
    four_databases, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    arguments, settings = four_databases
    # Of 15 rows asked for: one of each style, with this seed of one database.
    settings["filter"]["max_per_style"] = 1 / 15
    with pytest.raises(SystemExit) as stopped:
        main([arguments[0], json.dumps(settings), *arguments[2:], "--seed", "3"])
    assert stopped.value.code == 1
    assert "filter.validation_databases: 1 of the 1 databases with usable rows" in capfd.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_what_the_card_shows_of_a_row_stays_in_its_cell():
    odd = {"failed": row("SELECT 'a' || x\nFROM t", "a | b")}
    card = data_card({"cold_start": []}, {"input": 1, "dropped": {"failed": 1}}, odd, "Data")
    assert "| failed | `music` | a \\| b | `SELECT 'a' \\|\\| x FROM t` |" in card


def test_stage_names_the_row_of_an_unknown_database(stage_inputs, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "questions.jsonl", [row("SELECT 1", db_id="atlantis")])
    with pytest.raises(SystemExit) as stopped:
        main(stage_inputs)
    assert stopped.value.code == 1
    assert "row music-0 names the unknown database 'atlantis'" in capfd.readouterr().err
    assert not (tmp_path / "out/funnel.json").exists()


@pytest.mark.parametrize("sql_class", ["", "simple"])
def test_stage_names_the_row_of_an_unknown_class(stage_inputs, tmp_path, monkeypatch, capfd, sql_class):
    """Of SQL that cannot be parsed there is no class, and the row is dropped."""
    monkeypatch.chdir(tmp_path)
    rows = [row("SELECT FROM WHERE", sql_class=""), row("SELECT name FROM singer", number=1, sql_class=sql_class)]
    write_jsonl(tmp_path / "questions.jsonl", rows)
    with pytest.raises(SystemExit):
        main(stage_inputs)
    told = capfd.readouterr().err
    assert f"questions.jsonl: row music-1 has the sql_class {sql_class!r}; it must be one of Simple, Moderate" in told


def test_stage_names_the_line_of_a_malformed_row_and_writes_nothing(stage_inputs, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with open(tmp_path / "questions.jsonl", "a") as file:
        file.write('{"id": "music-3"\n')
    with pytest.raises(SystemExit) as stopped:
        main(stage_inputs)
    assert stopped.value.code == 1
    assert "questions.jsonl:3: not valid JSON" in capfd.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_new_row_leaves_the_test_questions_as_they_are():
    """Feedback comes first in the file, so every row gets another number. By chance 10 of 100 would stay."""

    def test_forms(forms):
        classes = dict.fromkeys(range(len(forms)), "Simple")
        sizes = {"test": 100, "validation": 48, "rl": 400, "cold_start": 160}
        weights = {name: float(name == "Simple") for name in SQL_CLASSES}
        found = split(classes, sizes, ["Simple"], weights, 0, forms=dict(enumerate(forms)))
        return {forms[number] for number in found["test"]}

    forms = list(range(1000, 2000))
    assert len(test_forms(forms)) == 100
    assert len(test_forms(forms) & test_forms([7, *forms])) >= 99


def test_rows_with_answers_marked_wrong_are_in_rl_and_none_of_their_form_in_test(database):
    rows = [row(f"SELECT name FROM singer WHERE age > {age}", f"Older than {age}?", age) for age in range(20, 50)]
    rows += [row(f"SELECT {name} FROM singer", f"Each {name}?", name) for name in ("name", "country", "age")]
    rows = [replace(r, sql_class="Simple", style="formal") for r in rows]
    again = [3, 7]
    rows = [replace(r, wrong_sql="SELECT 1") if number in again else r for number, r in enumerate(rows)]
    sizes = {"test_rows": 2, "validation_rows": 1, "rl_rows": 1, "cold_start_rows": 1}
    settings = Filter(**sizes, rl_classes=["Complex"], max_per_style=0.1)
    subsets, over = divide(rows, [None] * len(rows), settings, 0)
    assert subsets["rl"] == again
    assert {*subsets["test"], *subsets["validation"]} <= {30, 31, 32}
    assert sorted([*over, *(number for subset in subsets.values() for number in subset)]) == list(range(33))
    held = Filter(**sizes, validation_databases=1)
    elsewhere = [replace(r, db_id=f"music{number % 2}") for number, r in enumerate(rows)]
    for seed in range(4):  # either database is held out
        subsets, _ = divide(elsewhere, [None] * len(rows), held, seed)
        unseen, trained = (
            {elsewhere[n].db_id for name in names for n in subsets[name]}
            for names in (["validation"], ["rl", "cold_start"])
        )
        assert not unseen & trained
        assert (again[0] in subsets["rl"]) == ("music1" in trained)
