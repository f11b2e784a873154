"""What a stage depends on: the project's own modules that it can execute, and the config sections that it reads.

Snakemake notices neither by itself when a rule's command is `python -m sqlr1.stages.NAME`. So rules take
`sources(...)` as input files, which Snakemake compares by content, and `settings(...)` as one string parameter.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("sqlr1", "sqlgen")
# config.py only declares and checks keys. A stage gets every value, defaults included, through `settings`, so an edit
# of config.py re-runs a stage only if it changes a value that the stage reads.
# Nor does a result depend on what MLflow is told of it.
DECLARATIONS = ("sqlr1/config.py", "sqlr1/tracking.py", "sqlr1/traces.py")
_DATA = (".yaml", ".json", ".txt", ".csv", ".j2")
_MODULE = re.compile(rf"\b(?:{'|'.join(PACKAGES)})\.[\w.]+")


def sources(module: str) -> list[str]:
    """Paths of all modules that the module `module` (`sqlr1.stages.grpo`) can execute, itself included.

    Found with `ast`, without importing: imports inside functions count, and so do strings (but for docstrings) that
    name a module of the project, as in the command that starts a worker. Data files beside a module count with it.
    Raises FileNotFoundError if there is no such module.
    """
    if _file(module) is None:
        raise FileNotFoundError(f"{ROOT / module.replace('.', '/')}.py")
    seen: set[Path] = set()
    queue = _executed(module)
    while queue:
        path = queue.pop()
        if path not in seen:
            seen.add(path)
            queue += _imports(path)
    data = {file for folder in {path.parent for path in seen} for file in _data_files(folder)}
    return sorted(_display(path) for path in seen | data)


def settings(config: Mapping[str, Any], *sections: str, **extra: Any) -> str:
    """The named config sections (and `extra` values) as one JSON string with sorted keys."""
    return json.dumps({name: config[name] for name in sections} | extra, sort_keys=True, ensure_ascii=False)


def _display(path: Path) -> str:
    """Relative to the working folder where possible, so that a moved checkout re-runs nothing."""
    cwd = Path.cwd()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def _file(name: str) -> Path | None:
    """The file of module `name` (`sqlr1.a.b`), or None if there is no such module or it only declares settings."""
    base = ROOT.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return None if candidate.relative_to(ROOT).as_posix() in DECLARATIONS else candidate
    return None


def _executed(name: str) -> list[Path]:
    """Importing a.b.c executes a, a.b and a.b.c; the last part may also be an attribute, which has no file."""
    parts = name.split(".")
    prefixes = (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return [file for prefix in prefixes if (file := _file(prefix))]


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    names = _names(ast.parse(path.read_text(encoding="utf-8")))
    return tuple(file for name in names for file in _executed(name))


def _data_files(folder: Path) -> Iterator[Path]:
    """Data files in a package's folder and in those of its subfolders that are no packages."""
    for path in folder.iterdir():
        if path.suffix in _DATA:
            yield path
        elif path.is_dir() and not (path / "__init__.py").exists():
            yield from _data_files(path)


def _names(tree: ast.AST) -> Iterator[str]:
    """Names of the project's modules (or of something in them) that the code imports or names in a string."""
    docstrings = set()
    for node in ast.walk(tree):  # a docstring comes after its statement
        if isinstance(node, ast.Expr):
            docstrings.add(id(node.value))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError("relative imports are not used in this project: sources() cannot follow them")
            if node.module and node.module.split(".")[0] in PACKAGES:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from _MODULE.findall(node.value)
