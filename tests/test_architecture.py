"""The house rules that can be checked: direction of imports, one module for MLflow, no path of one machine."""

import ast
import re
from pathlib import Path

import pytest

import sqlgen
import sqlr1
import sqlr1.sandbox

ROOT = Path(sqlr1.__file__).parents[2]
WORKFLOW = ROOT / "workflow"
# Each may import only what is above it.
ORDER = [
    "records", "cpus", "slurm", "statistics", "sql_tokens", "provenance", "traces", "tracking", "database", "prompt",
    "sandbox", "outcomes", "rewards", "strategies", "config", "launch", "config_checks", "config_files",
    "evaluate", "answer_traces", "data", "sqlgen", "model", "train", "report", "plan", "ask", "serve",
    "export_command", "init_command", "check_batches", "check_command", "ui_command", "stages", "cli",
]  # fmt: skip


# What of sqlr1 the generator may import, so that another source of rows can take its place.
BELOW_THE_GENERATOR = (
    "sqlr1.records", "sqlr1.database", "sqlr1.sandbox", "sqlr1.data.processes", "sqlr1.data.reasoning",
    "sqlr1.data.split",
)  # fmt: skip


def modules():
    found = (p for name in ("sqlr1", "sqlgen") for p in (WORKFLOW / name).rglob("*.py"))
    return sorted(p for p in found if p.parent.name not in ("sqlr1",) or p.name != "__init__.py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ([f"sqlr1.{a.name}" for a in node.names] if node.module == "sqlr1" else [node.module])


def imported_from(module, path):
    found = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    return {alias.name for node in found if node.module == module for alias in node.names}


def room(module):
    """The room of a dotted name: `database` of sqlr1.database.text, `sqlgen` of all that the generator holds."""
    parts = module.split(".")
    return parts[0] if parts[0] == "sqlgen" else parts[1]


def dotted(path):
    return ".".join(path.relative_to(WORKFLOW).with_suffix("").parts)


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_run_downwards(path):
    here = ORDER.index(room(dotted(path)))
    for name in imports(path):
        if name.split(".")[0] in ("sqlr1", "sqlgen"):
            assert ORDER.index(room(name)) <= here, f"{path.name} imports {name}"


def test_the_sandbox_is_imported_as_a_whole():
    """Other code uses what `sqlr1.sandbox` exports, never the modules inside it."""
    for path in modules():
        if room(dotted(path)) != "sandbox":
            assert not [name for name in imports(path) if name.startswith("sqlr1.sandbox.")], path
            assert imported_from("sqlr1.sandbox", path) <= set(sqlr1.sandbox.__all__), path


def test_everything_the_sandbox_exports_exists():
    """Some names are imported on first use only."""
    assert all(getattr(sqlr1.sandbox, name) for name in sqlr1.sandbox.__all__)


# The tests of the generator itself; all other tests use it as the stage does.
GENERATOR_TESTS = [
    f"test_synthesis_{name}.py" for name in ("constraint", "golds", "own_databases", "plans", "questions", "words")
]


def test_other_tests_and_benchmarks_use_that_door():
    for path in [*(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        if path.name not in GENERATOR_TESTS:
            assert not [name for name in imports(path) if name.startswith("sqlgen.")], path


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_the_generator_has_one_door(path):
    names = [name for name in imports(path) if name.split(".")[0] == "sqlgen"]
    if room(dotted(path)) == "sqlgen":
        own = [name for name in imports(path) if name.split(".")[0] == "sqlr1"]
        assert not [name for name in own if not f"{name}.".startswith(tuple(f"{n}." for n in BELOW_THE_GENERATOR))]
    elif dotted(path) == "sqlr1.stages.synthesize":
        assert names == ["sqlgen"]
        assert imported_from("sqlgen", path) <= set(sqlgen.__all__)
    else:
        assert not names


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_only_tracking_imports_mlflow(path):
    """But for the module of its traces, and the file that MLflow itself runs."""
    if room(dotted(path)) not in ("tracking", "traces", "serve"):
        assert not [n for n in imports(path) if n.split(".")[0] == "mlflow"]


def test_no_setting_has_a_default_outside_of_the_configuration():
    own = r"settings\.get\(|(settings|trained_on)\[.*\]\.get\(.*, *(False|True|None|\d)"
    for path in [*modules(), ROOT / "Snakefile", *(WORKFLOW / "rules").iterdir()]:
        assert not re.search(own, path.read_text()), path


def test_no_machine_paths_in_the_repository():
    for path in [
        *(path for path in ROOT.glob("*.*") if path.name != ".git"),  # a file in a worktree
        ROOT / "Makefile",
        *(ROOT / "workflow").rglob("*"),
        *(ROOT / "tests").rglob("*.py"),
    ]:
        if path.is_file() and path.suffix in (".py", ".smk", ".yaml", ".md", ".toml", ".txt", ".rst", ""):
            assert not re.search(r"/(work|tmp|root|home)/\w", path.read_text(errors="replace")), path


def test_the_picture_of_the_workflow_shows_every_rule():
    rules = [
        name
        for path in [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]
        for name in re.findall(r"^rule (\w+):", path.read_text(), re.MULTILINE)
    ]
    shown = re.findall(r"<text[^>]*>([^<]+)</text>", (ROOT / "docs/dag.svg").read_text())
    assert sorted(shown) == sorted(rules)
