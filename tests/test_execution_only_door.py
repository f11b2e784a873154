"""The executor is the one door: nothing else in the package opens a database to run SQL that a model wrote."""

import ast
from pathlib import Path

import pytest

import sqlr1

PACKAGE = Path(sqlr1.__file__).parents[1]
# What else opens SQLite files, and what for. None of them is given any SQL: they only run statements of their own.
OPENERS = {
    "sqlr1/database/schema.py": "reads schemas and sample values",
    "sqlgen/populate.py": "writes the synthetic databases",
    "sqlr1/database/instances.py": "writes further instances of them, and copies that the filter reads backward",
    "sqlr1/data/table_files.py": "writes a database of CSV and Parquet files",
    "sqlr1/check_batches.py": "writes the database of made-up rows",
    "sqlr1/report/model_card/geography.py": "writes the example of a model card",
    "sqlr1/sandbox/connection.py": "the sandbox",
    "sqlr1/sandbox/cache.py": "the file of kept gold results",
}
# What hands an open connection to others, and the modules that may so much as name it.
HANDED_ON = {
    "open_read_only": {
        "sqlr1/database/schema.py",
        "sqlr1/database/profile.py",
        "sqlr1/database/text.py",
        "sqlr1/database/retrieval.py",
        "sqlr1/database/lookup.py",
        "sqlr1/data/table_files.py",
    },
    "Sandbox": {"sqlr1/sandbox/connection.py", "sqlr1/sandbox/worker.py"},
}
DRIVERS = {"sqlite3", "apsw", "pysqlite3", "duckdb", "sqlalchemy", "aiosqlite", "records", "dataset"}
ANSWERS = {"Candidates", "parse_response", "Response", "Question"}
RUNNERS = {"execute", "executemany", "executescript"}


def package():
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def called(tree):
    """The last names of everything that is called: `connect` of `sqlite3.connect(path)`, `eval` of `eval(text)`."""
    functions = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {getattr(function, "attr", getattr(function, "id", "")) for function in functions}


def named(tree):
    """Every name that is read, imported or an attribute, and every string that could stand for one."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name) | ast.Constant(value=str(name)):
                yield name


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def check_openers(trees):
    assert {name for name, tree in trees.items() if "connect" in called(tree)} == set(OPENERS)


def check_what_is_handed_on(trees):
    for opener, users in HANDED_ON.items():
        assert {name for name, tree in trees.items() if opener in named(tree)} <= users


def check_nothing_is_imported_from_sqlite_by_name(trees):
    """`from sqlite3 import connect as open` would hide a call from the first check."""
    for name, tree in trees.items():
        froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {module for module in froms if module and module.split(".")[0] == "sqlite3"}, name


def check_drivers(trees):
    for name, tree in trees.items():
        found = set(imported(tree)) & DRIVERS
        assert found <= {"sqlite3"}, name
        rooms = any(f"/{r}/" in f"/{name}" for r in ("database", "sandbox", "sqlgen"))
        assert not found or rooms or name in OPENERS, name


def check_modules_with_a_connection_see_no_models_answer(trees):
    """Those that read or write databases name neither candidates nor the response parser."""
    for name, tree in trees.items():
        has_connection = "sqlite3" in imported(tree) or "open_read_only" in named(tree)
        if has_connection and not name.startswith("sqlr1/sandbox/"):
            assert not set(named(tree)) & ANSWERS, name


def check_the_worker_runs_sql_in_the_sandbox_only(trees):
    execution = {name: called(tree) for name, tree in trees.items() if name.startswith("sqlr1/sandbox/")}
    assert {name for name, calls in execution.items() if calls & RUNNERS} <= {
        "sqlr1/sandbox/connection.py",
        "sqlr1/sandbox/cache.py",
    }
    assert not {name for name, calls in execution.items() if calls & {"exec", "eval", "system"}}


CHECKS = {name: check for name, check in list(globals().items()) if name.startswith("check_")}
# Modules that would be a second door, each beside the check that must find it.
SNEAKY = {
    "check_openers": ("stages/sneaky.py", "import sqlite3\nsqlite3.connect(path).execute(answer)"),
    "check_what_is_handed_on": (
        "stages/sneaky.py",
        "from sqlr1.database.schema import open_read_only as look\nwith look(path) as c: c.execute(answer)",
    ),
    "check_nothing_is_imported_from_sqlite_by_name": ("sqlgen/sneaky.py", "from sqlite3 import connect as look"),
    "check_drivers": ("sqlgen/sneaky.py", "import duckdb"),
    "check_modules_with_a_connection_see_no_models_answer": (
        "sqlr1/database/profile.py",
        "from sqlr1.database.schema import open_read_only\nfrom sqlr1.prompt import parse_response",
    ),
    "check_the_worker_runs_sql_in_the_sandbox_only": ("sqlr1/sandbox/worker.py", "sandbox._connection.execute(answer)"),
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_package_has_one_door(check):
    check(package())


@pytest.mark.parametrize("check", CHECKS)
def test_a_second_door_is_found(check):
    name, source = SNEAKY[check]
    with pytest.raises(AssertionError):
        CHECKS[check](package() | {name: ast.parse(source)})
