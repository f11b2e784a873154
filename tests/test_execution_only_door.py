"""The executor is the one door: nothing else in the package opens a database to run SQL that a model wrote."""

import ast
from pathlib import Path

import sqlr1

PACKAGE = Path(sqlr1.__file__).parent
# What else opens SQLite files, and what for. None of them is given any SQL: they only run statements of their own.
OPENERS = {
    "databases/schema.py": "reads schemas and sample values",
    "synthesis/populate.py": "writes the synthetic databases",
    "synthesis/instances.py": "writes further instances of them",
    "synthesis/backward.py": "copies databases that the filter reads backwards",
    "execution/sandbox.py": "the sandbox",
    "execution/cache.py": "the file of kept gold results",
}
DRIVERS = {"sqlite3", "apsw", "pysqlite3", "duckdb", "sqlalchemy", "aiosqlite", "records", "dataset"}


def trees():
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def test_only_known_modules_open_a_database():
    openers = {
        name
        for name, tree in trees().items()
        if any(isinstance(call.func, ast.Attribute) and call.func.attr == "connect" for call in calls(tree))
    }
    assert openers == set(OPENERS)


def test_nothing_is_imported_from_sqlite_by_name():
    """`from sqlite3 import connect` would hide a call from the test above."""
    for name, tree in trees().items():
        froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {module for module in froms if module and module.split(".")[0] == "sqlite3"}, name


def test_no_other_driver_is_imported():
    for name, tree in trees().items():
        found = set(imported(tree)) & DRIVERS
        assert found <= {"sqlite3"}, name
        assert not found or name.split("/")[0] in ("databases", "execution", "synthesis"), name


def test_modules_with_sqlite_see_no_models_answer():
    """Those that read or write databases import neither candidates nor the response parser."""
    for name, tree in trees().items():
        if "sqlite3" in imported(tree) and not name.startswith("execution/"):
            names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
            assert not names & {"Candidates", "parse_response", "Response", "Question"}, name


def test_the_worker_only_runs_sql_in_the_sandbox():
    executes = [
        name
        for name, tree in trees().items()
        if name.startswith("execution/")
        for call in calls(tree)
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("executescript", "exec", "eval", "system")
    ]
    assert executes == []
