"""The house rules that can be checked: direction of imports, one module for MLflow, no path of one machine."""

import ast
import re
from pathlib import Path

import pytest

import sqlr1

PACKAGE = Path(sqlr1.__file__).parent
# Each may import only what stands before it; filtering and synthesis run their SQL through execution and scoring.
ORDER = [
    "records", "cpus", "schema", "configuration", "provenance", "databases", "prompting", "execution", "scoring",
    "synthesis", "filtering", "outcomes", "rewards", "base_model", "inference", "training", "tracking", "reporting",
    "planning", "stages", "cli",
]  # fmt: skip


def modules():
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py" or p.parent != PACKAGE)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ([f"sqlr1.{a.name}" for a in node.names] if node.module == "sqlr1" else [node.module])


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    here = ORDER.index(room(path))
    for name in imports(path):
        if name.startswith("sqlr1."):
            assert ORDER.index(name.split(".")[1]) <= here, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_tracking_imports_mlflow(path):
    if room(path) != "tracking":
        assert not [n for n in imports(path) if n.split(".")[0] == "mlflow"]


def test_no_machine_paths_in_the_repository():
    root = PACKAGE.parent.parent
    for path in [
        *(path for path in root.glob("*.*") if path.name != ".git"),  # a file in a worktree
        root / "Makefile",
        *(root / "workflow").rglob("*"),
        *(root / "tests").rglob("*.py"),
    ]:
        if path.is_file() and path.suffix in (".py", ".smk", ".yaml", ".md", ".toml", ".txt", ".rst", ""):
            assert not re.search(r"/(work|tmp|root|home)/\w", path.read_text(errors="replace")), path


def test_the_picture_of_the_workflow_shows_every_rule():
    root = PACKAGE.parent.parent
    rules = [
        name
        for path in [root / "Snakefile", *(root / "workflow/rules").glob("*.smk")]
        for name in re.findall(r"^rule (\w+):", path.read_text(), re.MULTILINE)
    ]
    shown = re.findall(r"<text[^>]*>([^<]+)</text>", (root / "docs/dag.svg").read_text())
    assert sorted(shown) == sorted(rules)
