"""Where databases are: folders in Spider's layout, `<db_id>/<db_id>.sqlite`, and the catalogue of a dataset."""

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from sqlr1.records import Database, InputError, read_json, sha256

log = logging.getLogger(__name__)


def data_root() -> Path:
    """The folder of benchmarks and databases: SQLR1_DATA, which the Snakefile sets from `data.root`."""
    return Path(os.environ.get("SQLR1_DATA", "data"))


def database_files(databases: Path, db_ids: Path | None = None) -> dict[str, Path]:
    """The SQLite files of a folder in Spider's layout by database name, sorted; or the one file `databases`.

    `db_ids` is a questions file in Spider's layout: only databases that it names are used. Raises InputError if there
    are none.
    """
    if databases.is_file():
        paths = {databases.stem: databases}
    else:
        paths = {path.stem: path for path in sorted(databases.glob("*/*.sqlite")) if path.stem == path.parent.name}
    if db_ids:
        wanted = {row.get("db_id") for row in read_json(db_ids)}
        if absent := sorted(map(str, wanted - set(paths))):
            log.warning("%s: %d databases of %s are absent: %s", databases, len(absent), db_ids, ", ".join(absent[:20]))
        paths = {db_id: path for db_id, path in paths.items() if db_id in wanted}
    if not paths:
        named = f" named in {db_ids}" if db_ids else ""
        raise InputError(f"{databases}: no databases of the form <db_id>/<db_id>.sqlite{named}")
    return paths


def merged(databases: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files by database name, the first one of each name.

    Raises InputError if files of one name differ: questions identify their database by its name alone.
    """
    found: dict[str, Path] = {}
    for db_id, path in databases:
        first = found.setdefault(db_id, path)
        if first.resolve() != path.resolve() and sha256(first) != sha256(path):
            raise InputError(f"{first} and {path} are different databases of one name; rename one of them")
    return found


def catalogue_entry(db_id: str, files: Sequence[Path], source: str, split: str, out: Path, root: Path) -> Database:
    """The catalogue line of a database whose instances are `files`; the first one stands for all.

    Its path is relative to the catalogue's folder `out` if it is inside, else to the data root if it is inside there.
    """
    shown = files[0].relative_to(out).as_posix() if files[0].is_relative_to(out) else portable(files[0], root)
    hashes = [sha256(file) for file in files]  # of all instances: training on them depends on each
    combined = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return Database(db_id, shown, source, split, combined)


def portable(path: Path, root: Path) -> str:
    """`{data}/...` for a path inside the data root, so that it holds on other machines; else the absolute path."""
    root, path = root.resolve(), path.resolve()
    return "{data}/" + path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def resolve(path: str, root: Path) -> Path:
    """A path of the configuration, with the data root for `{data}`."""
    return Path(path.replace("{data}", str(root)))
