"""Gold results, kept in a file: in the given folder for later runs and other stages, else in a temporary one."""

import contextlib
import hashlib
import marshal
import platform
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlr1.records import InputError, sha256
from sqlr1.sandbox.protocol import Limits, Reply, Status

# Reading a larger result takes about as long as computing it.
_LARGEST_BYTES = 4 << 20
_BUSY_SECONDS = 60


class GoldCache:
    """Maps (database content, SQL, limits) to a worker's reply. Several processes may share one folder.

    Raises InputError if the file in the folder is damaged, cannot be opened, or stays locked.
    """

    def __init__(self, folder: Path | None, limits: Limits) -> None:
        # Marshalled bytes depend on Python's version, and a result may depend on SQLite's.
        self._salt = repr((limits, platform.python_version_tuple()[:2], sqlite3.sqlite_version))
        self._hashes: dict[tuple, str] = {}
        self._path = folder / "golds.sqlite" if folder else ""  # "" is a temporary file, to SQLite
        try:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: not a folder for the cache ({error.strerror})") from error
        with self._named_errors():
            self._store = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._store.execute("PRAGMA synchronous = OFF")  # a lost cache costs time, not results
            self._store.execute("CREATE TABLE IF NOT EXISTS gold (key TEXT PRIMARY KEY, reply BLOB) WITHOUT ROWID")

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise InputError(f"{self._path}: the cache of gold results cannot be used ({error})") from error
        except (sqlite3.DatabaseError, ValueError, EOFError, TypeError) as error:
            raise InputError(f"{self._path}: the cache of gold results is damaged ({error}); delete it") from error

    def key(self, database: Path, sql: str) -> str:
        """The identity of a gold: it depends on the content of the database, not on its name."""
        stat = database.stat()
        identity = (database, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if identity not in self._hashes:
            self._hashes[identity] = sha256(database)
        text = "\0".join((self._salt, self._hashes[identity], sql))
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

    def get(self, key: str) -> Reply | None:
        """The reply kept under `key`, if any."""
        with self._named_errors():
            row = self._store.execute("SELECT reply FROM gold WHERE key = ?", (key,)).fetchone()
            return marshal.loads(row[0]) if row else None

    def put(self, replies: Mapping[str, Reply]) -> None:
        """Keep the replies that are ok. A gold that failed is run again: the sandbox's rules may change."""
        rows = [(key, marshal.dumps(reply, 2)) for key, reply in replies.items() if reply[0] == Status.OK]
        if rows := [(key, reply) for key, reply in rows if len(reply) < _LARGEST_BYTES]:
            with self._named_errors(), self._store:
                self._store.execute("BEGIN IMMEDIATE")
                self._store.executemany("INSERT OR REPLACE INTO gold VALUES (?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        self._store.close()
