"""What a stage depends on: the project's own modules that it can execute, the config sections that it reads, and
databases.

Snakemake notices neither code nor settings by itself when a rule's command is `python -m sqlr1.stages.NAME`. So rules
take `sources(...)` as input files, which Snakemake compares by content, and `settings(...)` as one string parameter.
Databases may be thousands (SynSQL has 16,583), and Snakemake would keep the name and hash of each beside each output:
rules take one hash of them all, `fingerprint(...)`, as a parameter.
"""

import ast
import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from sqlr1.records import atomic_write, sha256

ROOT = Path(__file__).parents[1]
PACKAGES = ("sqlr1", "sqlgen")
# These two only declare and check keys. A stage gets every value, defaults included, through `settings`, so an edit of
# config.py re-runs a stage only if it changes a value that the stage reads.
# Nor does a result depend on what MLflow is told of it.
DECLARATIONS = (
    "sqlr1/config.py", "sqlr1/config_checks.py", "sqlr1/tracking.py", "sqlr1/traces.py", "sqlr1/answer_traces.py",
)  # fmt: skip
# Caches: they can be deleted at any time.
HASHES = Path("results/.cache/hashes.json")
NAMES = Path("results/.cache/names.json")
_DATA = (".yaml", ".json", ".txt", ".csv", ".j2")
_READER = Path(__file__).read_bytes()  # part of the key: an edit of this module empties the cache
_MODULE = re.compile(rf"\b(?:{'|'.join(PACKAGES)})\.[\w.]+")


def sources(module: str) -> list[str]:
    """Paths of all modules that the module `module` (`sqlr1.stages.grpo`) can execute, itself included.

    Found with `ast`, without importing: imports inside functions count, and so do strings (but for docstrings) that
    name a module of the project, as in the command that starts a worker. Data files beside a module count with it.
    Raises FileNotFoundError if there is no such module.
    """
    if _file(module) is None:
        raise FileNotFoundError(f"{ROOT / module.replace('.', '/')}.py")
    before = dict(_known_names())
    seen: set[Path] = set()
    queue = _executed(module)
    while queue:
        path = queue.pop()
        if path not in seen:
            seen.add(path)
            queue += _imports(path)
    if _known_names() != before:
        _write_cache(NAMES, _known_names())
    data = {file for folder in {path.parent for path in seen} for file in _data_files(folder)}
    here = Path.cwd()  # relative to it where possible, so that a moved checkout re-runs nothing
    return sorted(str(path.relative_to(here) if path.is_relative_to(here) else path) for path in seen | data)


def settings(config: Mapping[str, Any], *sections: str, **extra: Any) -> str:
    """The named config sections (and `extra` values) as one JSON string with sorted keys."""
    return json.dumps({name: config[name] for name in sections} | extra, sort_keys=True, ensure_ascii=False)


def file_hashes(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of each file. HASHES keeps them: a file is read again only if its size or one of its times changed."""
    kept = _read_cache(HASHES)
    now = {path: (os.path.abspath(path), path.stat()) for path in paths}
    states = {path: (name, [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]) for path, (name, stat) in now.items()}
    new = [path for path, (name, state) in states.items() if kept.get(name, [])[:-1] != state]
    for path in tqdm(new, desc="hash files", unit="file", disable=None, delay=2):
        name, state = states[path]
        kept[name] = [*state, sha256(path)]
    if new:
        _write_cache(HASHES, kept)
    return {path: kept[name][-1] for path, (name, _) in states.items()}


def fingerprint(paths: Iterable[Path], folder: Path) -> str:
    """One hash of files' contents and their places in `folder`."""
    placed = sorted((os.path.relpath(path, folder), content) for path, content in file_hashes(paths).items())
    return hashlib.sha256(json.dumps(placed).encode()).hexdigest()


def _read_cache(cache: Path) -> dict[str, list[Any]]:
    with contextlib.suppress(OSError, ValueError):  # if it cannot be read, everything is read again
        read = json.loads(cache.read_bytes())
        if isinstance(read, dict) and all(isinstance(entry, list) for entry in read.values()):
            return read
    return {}


def _write_cache(cache: Path, kept: dict[str, list[Any]]) -> None:
    try:
        with atomic_write(cache) as file:
            json.dump(kept, file)
    except OSError as error:
        _warn_once(f"{cache}: not written, so files are read again next time: {error.strerror or error}")


@cache
def _warn_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)


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
def _known_names() -> dict[str, list[str]]:
    """Module's path -> hash of its text and the `_names` in it. To parse all modules takes 0.4 s."""
    return {name: entry for name, entry in _read_cache(NAMES).items() if all(isinstance(word, str) for word in entry)}


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    text, place = path.read_bytes(), path.relative_to(ROOT).as_posix()
    content = hashlib.sha256(_READER + text).hexdigest()
    if _known_names().get(place, [])[:1] != [content]:
        _known_names()[place] = [content, *sorted(set(_names(ast.parse(text))))]
    return tuple(file for name in _known_names()[place][1:] for file in _executed(name))


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
