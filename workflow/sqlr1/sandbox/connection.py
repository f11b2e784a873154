"""One read-only SQLite connection on which untrusted SQL runs. For workers only; see the package's docstring."""

import contextlib
import marshal
import os
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from sqlr1.sandbox.protocol import Limits, Reply, Status

# SQLite's progress handler is not called inside one opcode (a LIKE over a long text, a sort in memory). If a statement
# is still running this long after its limit, the kernel ends the process by SIGALRM.
GRACE_SECONDS = 0.01
_STEPS_BETWEEN_CHECKS = 4000
_ROWS_PER_FETCH = 256
_CACHE_KIB = 1024
_LONGEST_MESSAGE = 500  # SQLite's messages quote the statement
_DBCONFIG_DEFENSIVE = 1010  # SQLITE_DBCONFIG_DEFENSIVE in sqlite3.h

_ACTIONS = frozenset((sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE))
_FUNCTIONS = frozenset(
    """abs acos acosh asin asinh atan atan2 atanh avg bm25 ceil ceiling char coalesce concat concat_ws cos cosh
    count cume_dist current_date current_time current_timestamp date datetime degrees dense_rank exp first_value
    floor format glob group_concat hex highlight if ifnull iif instr julianday lag last_value lead length like
    likelihood likely ln log log10 log2 lower ltrim match max median min mod nth_value ntile nullif octet_length
    offsets percent_rank percentile percentile_cont percentile_disc pi pow power printf quote radians random
    randomblob rank replace round row_number rtrim sign sin sinh snippet soundex sqlite_version sqrt strftime
    string_agg substr substring sum tan tanh time timediff total trim trunc typeof unhex unicode unistr
    unistr_quote unixepoch unlikely upper zeroblob -> ->> json json_array json_array_length json_error_position
    json_extract json_group_array json_group_object json_insert json_object json_patch json_pretty json_quote
    json_remove json_replace json_set json_type json_valid""".split()  # noqa: SIM905
)
# Results of these may change from run to run. Most do not if the argument is not 'now', but that is hard to tell.
_VOLATILE = frozenset(
    """current_date current_time current_timestamp date datetime julianday random randomblob strftime time timediff
    unixepoch""".split()  # noqa: SIM905
)
_SEARCHES = frozenset(("bm25", "highlight", "match", "snippet"))
# Messages of SQLite and the sqlite3 module about a statement that is too big or several statements: there is no code.
_UNFIT = (
    "query string is too large", "Expression tree is too large", "parser stack overflow", "too many",
    "You can only execute one statement",
)  # fmt: skip
_READABLE_MODULES = frozenset(("json_each", "json_tree"))
# Virtual tables that store their rows in ordinary tables of the database.
_SEARCHED = re.compile(
    r"CREATE\s+VIRTUAL\s+TABLE\s.*?\sUSING\s+(fts[345]|fts5vocab|rtree|rtree_i32|geopoly)\b", re.IGNORECASE | re.DOTALL
)
_CATALOGUE = frozenset(("sqlite_master", "sqlite_schema", "sqlite_sequence", "sqlite_stat1"))


class Sandbox:
    """A connection to one database file. Raises sqlite3.DatabaseError if the file is no database."""

    def __init__(self, database: Path, limits: Limits) -> None:
        self._limits = limits
        self._deadline = 0.0
        self._denied = self._volatile = self._searches = False
        uri = f"file:{quote(os.fsencode(database))}?mode=ro&immutable=1"
        connection = self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=0)
        connection.text_factory = lambda text: text.decode(errors="ignore")
        if hasattr(connection, "setconfig"):  # before Python 3.12: see defend_connections
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        for pragma in (
            "trusted_schema = OFF", "query_only = ON", "cell_size_check = ON", "temp_store = MEMORY", "mmap_size = 0",
            f"cache_size = -{_CACHE_KIB}", f"hard_heap_limit = {limits.memory_bytes}",
        ):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}")
        for category, value in (
            (sqlite3.SQLITE_LIMIT_LENGTH, limits.result_bytes),
            (sqlite3.SQLITE_LIMIT_SQL_LENGTH, limits.sql_length),
            (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, limits.expression_depth),
            (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
            (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
            (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 1),
        ):
            connection.setlimit(category, value)
        created = connection.execute("SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'view')").fetchall()
        self._tables = frozenset(name.lower() for name, _ in created) | _CATALOGUE | _READABLE_MODULES
        # SQLite creates these tables on first use, with a CREATE TABLE that the authorizer would deny.
        connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')")
        searched = {name: found[1].lower() for name, sql in created if (found := _SEARCHED.match(sql or ""))}
        self._cursors = frozenset(name.lower() for name, module in searched.items() if module == "fts5")
        self._searched = bool(searched)
        for name in searched:
            with contextlib.suppress(sqlite3.Error):  # damaged, or its tokenizer is absent: queries on it fail
                connection.execute('SELECT 1 FROM "{}" LIMIT 0'.format(name.replace('"', '""')))
        modules = connection.execute("SELECT name FROM pragma_module_list")
        self._modules = frozenset(name for (name,) in modules) - _READABLE_MODULES
        connection.set_authorizer(self._authorize)
        connection.set_progress_handler(self._out_of_time, _STEPS_BETWEEN_CHECKS)

    def close(self) -> None:
        """Close the connection and drop its references to this object, which would keep both alive."""
        self._connection.set_authorizer(None)
        self._connection.set_progress_handler(None, 0)
        self._connection.close()

    def _authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        """Allow reads of the database's tables and known functions. SQLite asks while it compiles a statement."""
        allowed = action in _ACTIONS
        if action == sqlite3.SQLITE_READ:
            table = (first or "").lower()
            if second:
                allowed = table in self._tables
                # FTS5's hidden column of the table's name holds a number that differs in each run, unless it is the
                # first argument of a search function. SQLite asks about that function just before.
                self._volatile |= table in self._cursors and second.lower() == table and not self._searches
            else:  # no column is read: a table, or a common table expression, which may not have a module's name
                allowed = table in self._tables or (table not in self._modules and not table.startswith("pragma_"))
        elif action == sqlite3.SQLITE_PRAGMA:
            allowed = self._searched and first == "data_version"  # FTS5 runs it in each query
        elif action == sqlite3.SQLITE_FUNCTION:
            name = (second or "").lower()
            allowed = name in _FUNCTIONS
            self._volatile |= name in _VOLATILE
        self._searches = action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _SEARCHES
        self._denied |= not allowed
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    def _out_of_time(self) -> bool:
        return time.monotonic() > self._deadline

    def run(self, sql: str) -> Reply:
        """Run one statement within the limits. Never raises for anything the statement does.

        The payload is (column names, rows, whether it is volatile). A statement is volatile if it, or a view it reads,
        calls a function whose result may depend on the clock or on chance, or names an FTS5 table as a value.
        """
        seconds = self._limits.seconds
        self._denied = self._volatile = False
        self._deadline = time.monotonic() + seconds
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
        try:
            return self._fetch(sql)
        except (sqlite3.Error, sqlite3.Warning, UnicodeError, MemoryError) as error:
            return self._classify(error), None, (str(error) or type(error).__name__)[:_LONGEST_MESSAGE]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _fetch(self, sql: str) -> Reply:
        cursor = self._connection.execute(sql)
        if cursor.description is None:
            return Status.FAILED, None, "there is no statement"
        rows: list[tuple] = []
        size = 0
        while chunk := cursor.fetchmany(_ROWS_PER_FETCH):
            rows += chunk
            size += len(marshal.dumps(chunk, 2))
            if len(rows) > self._limits.rows or size > self._limits.result_bytes:
                cursor.close()
                return Status.TOO_LARGE, None, "the result exceeds the limit of rows or bytes"
            if self._out_of_time():
                cursor.close()
                return Status.TIMED_OUT, None, "interrupted"
        return Status.OK, ([column[0] for column in cursor.description], rows, self._volatile), ""

    def _classify(self, error: Exception) -> Status:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_INTERRUPT:
            return Status.TIMED_OUT
        if code in (sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_NOMEM) or isinstance(error, MemoryError):
            return Status.TOO_LARGE
        # Only at the start of the message: further on SQLite quotes names, which the statement chooses.
        unfit = str(error).startswith(_UNFIT)
        return Status.REFUSED if self._denied or unfit or code == sqlite3.SQLITE_AUTH else Status.FAILED


@contextlib.contextmanager
def defend_connections() -> Iterator[None]:
    """Make SQLite open every connection of this process in defensive mode.

    Before Python 3.12 the sqlite3 module has no call for that, so this registers a hook in SQLite. Raises RuntimeError
    if SQLite's functions cannot be reached (a Python that links SQLite statically and hides them).
    """
    if hasattr(sqlite3.Connection, "setconfig"):
        yield
        return

    import ctypes
    import importlib.util

    try:
        origin = importlib.util.find_spec("_sqlite3").origin
        library = ctypes.CDLL(None if origin == "built-in" else origin)
        configure, register = library.sqlite3_db_config, library.sqlite3_auto_extension
    except (AttributeError, OSError) as error:
        raise RuntimeError("this Python cannot switch on SQLite's defensive mode; use Python 3.12 or later") from error
    configure.argtypes = [ctypes.c_void_p, ctypes.c_int]  # the fixed arguments; the others are variadic

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    def on_connect(handle: int, *_: object) -> int:
        return configure(handle, _DBCONFIG_DEFENSIVE, ctypes.c_int(1), ctypes.c_void_p())

    register(on_connect)
    try:
        yield
    finally:
        library.sqlite3_cancel_auto_extension(on_connect)
