"""Gold results, kept in memory and, if a folder is given, on disk for later runs and other stages."""

import contextlib
import hashlib
import marshal
import platform
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlr1.records import InputError, sha256
from sqlr1.sandbox.protocol import Reply
from sqlr1.sandbox.verdicts import Limits, Status

_MEMORY_BYTES = 128 << 20
# A larger result is read from disk hardly faster than it is computed.
_LARGEST_STORED = 4 << 20
_BUSY_SECONDS = 60


class GoldCache:
    """Maps (database content, SQL, limits) to a worker's reply. Several processes may share one folder.

    Raises InputError when the file in the folder is damaged, or cannot be opened, or stays locked.
    """

    def __init__(self, folder: Path | None, limits: Limits) -> None:
        # The bytes of a marshalled value depend on Python's version, a result may depend on SQLite's.
        self._salt = repr((limits, platform.python_version_tuple()[:2], sqlite3.sqlite_version))
        self._hashes: dict[tuple, str] = {}
        self._recent: OrderedDict[str, Reply] = OrderedDict()
        self._bytes = 0
        self._path = Path(folder) / "golds.sqlite" if folder else None
        self._store = self._open(self._path) if self._path else None

    def _open(self, path: Path) -> sqlite3.Connection:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path.parent}: not a folder for the cache ({error.strerror})") from error
        with self._damage_named():
            store = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            store.execute("PRAGMA synchronous = OFF")  # a lost cache costs time, not results
            store.execute("CREATE TABLE IF NOT EXISTS gold (key TEXT PRIMARY KEY, reply BLOB) WITHOUT ROWID")
        return store

    @contextlib.contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise InputError(f"{self._path}: the cache of gold results cannot be used ({error})") from error
        except (sqlite3.DatabaseError, ValueError, EOFError, TypeError) as error:
            raise InputError(f"{self._path}: the cache of gold results is damaged ({error}); delete it") from error

    def key(self, database: Path, sql: str) -> str:
        """The identity of a gold: by the database's content, not its name."""
        text = "\0".join((self._salt, self._content(database), sql))
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

    def _content(self, database: Path) -> str:
        stat = database.stat()
        identity = (database, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if identity not in self._hashes:
            self._hashes[identity] = sha256(database)
        return self._hashes[identity]

    def get(self, key: str) -> Reply | None:
        """The reply kept under `key`, if any."""
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        if not self._store:
            return None
        with self._damage_named():
            row = self._store.execute("SELECT reply FROM gold WHERE key = ?", (key,)).fetchone()
            reply = marshal.loads(row[0]) if row else None
        if reply:
            self._remember(key, reply)
        return reply

    def put(self, replies: Mapping[str, Reply]) -> None:
        """Keep the results among `replies`: a gold that failed is run again, when the rules may have changed."""
        kept = {key: reply for key, reply in replies.items() if reply[0] == Status.OK}
        for key, reply in kept.items():
            self._remember(key, reply)
        rows = [(key, marshal.dumps(reply, 2)) for key, reply in kept.items() if _size(reply) < _LARGEST_STORED]
        if self._store and rows:
            with self._damage_named(), self._store:
                self._store.execute("BEGIN IMMEDIATE")
                self._store.executemany("INSERT OR REPLACE INTO gold VALUES (?, ?)", rows)

    def _remember(self, key: str, reply: Reply) -> None:
        if key in self._recent:
            self._bytes -= _size(self._recent[key])
        self._recent[key] = reply
        self._bytes += _size(reply)
        while self._bytes > _MEMORY_BYTES:
            _, oldest = self._recent.popitem(last=False)
            self._bytes -= _size(oldest)

    def close(self) -> None:
        """Close the file."""
        if self._store:
            self._store.close()


def _size(reply: Reply) -> int:
    return 500 + (len(reply[1][1]) if reply[1] else 0)
