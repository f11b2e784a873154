"""Gold results, kept in a file: in the given folder for later runs and other stages, else in a temporary one."""

import contextlib
import hashlib
import logging
import marshal
import platform
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlr1.records import sha256
from sqlr1.sandbox.protocol import Limits, Reply, Status

log = logging.getLogger(__name__)

# Reading a larger result takes about as long as computing it.
_LARGEST_BYTES = 4 << 20
_BUSY_SECONDS = 60
# What a file that is locked, damaged, full or out of reach raises, and what a damaged entry does.
_FAILURES = (sqlite3.Error, OSError, ValueError, EOFError, TypeError)


class GoldCache:
    """Maps (database content, SQL, limits) to a worker's reply. Several processes may share one folder.

    It only saves time: after the first failure, which is logged as a warning, it keeps and finds nothing.
    """

    def __init__(self, folder: Path | None, limits: Limits) -> None:
        # Marshalled bytes depend on Python's version, and a result may depend on SQLite's.
        self._salt = repr((limits, platform.python_version_tuple()[:2], sqlite3.sqlite_version))
        self._hashes: dict[tuple, str] = {}
        self._path = folder / "golds.sqlite" if folder else ""  # "" is a temporary file, to SQLite
        self._store: sqlite3.Connection | None = None
        with self._or_without():
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
            self._store = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._store.execute("PRAGMA synchronous = OFF")  # a lost cache costs time, not results
            self._store.execute("CREATE TABLE IF NOT EXISTS gold (key TEXT PRIMARY KEY, reply BLOB) WITHOUT ROWID")

    @contextlib.contextmanager
    def _or_without(self) -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            where = self._path or "a temporary file"
            log.warning("%s: the cache of gold results failed (%s); from now on golds run again", where, error)
            self.close()

    def key(self, database: Path, sql: str) -> str:
        """The identity of a gold: it depends on the content of the database, not on its name."""
        stat = database.stat()
        identity = (database, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if identity not in self._hashes:
            self._hashes[identity] = sha256(database)
        text = "\0".join((self._salt, self._hashes[identity], sql))
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

    def get(self, key: str) -> Reply | None:
        with self._or_without():
            row = self._store and self._store.execute("SELECT reply FROM gold WHERE key = ?", (key,)).fetchone()
            if row:
                status, payload, error = marshal.loads(row[0])
                return status, payload, error
        return None

    def put(self, replies: Mapping[str, Reply]) -> None:
        """Keep the replies that are ok. A gold that failed is run again: the sandbox's rules may change."""
        rows = [(key, marshal.dumps(reply, 2)) for key, reply in replies.items() if reply[0] == Status.OK]
        rows = [(key, reply) for key, reply in rows if len(reply) < _LARGEST_BYTES]
        with self._or_without():
            if self._store and rows:
                with self._store:
                    self._store.execute("BEGIN IMMEDIATE")
                    self._store.executemany("INSERT OR REPLACE INTO gold VALUES (?, ?)", rows)

    def close(self) -> None:
        if self._store:
            self._store.close()
        self._store = None
