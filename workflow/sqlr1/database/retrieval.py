"""The values of a database that a question mentions: BM25 finds candidates, the longest common substring ranks them.

The two steps are those of CodeS (Li et al., 2024, section 6.2).
"""

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN

from sqlr1.database.schema import Schema, identifier, open_read_only, quote, reading
from sqlr1.database.text import literal
from sqlr1.records import InputError, sha256

log = logging.getLogger(__name__)

LONGEST_VALUE = 80  # characters; longer values are texts that no question quotes
_CANDIDATES = 100  # values that are ranked by substring
_LEAST_COVER = 0.8  # share of a value that the question has to contain as one piece
_SLOW = 1.0  # seconds of building after which an index is kept on disk
_CACHE = Path("results/.cache/values")
_STOPWORDS = frozenset(STOPWORDS_EN)
logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs every index that it builds


@dataclass(frozen=True)
class Mention:
    """A value of `table.column`. `cover` is the share of it that the question contains as one piece."""

    table: str
    column: str
    value: str
    cover: float

    def __str__(self) -> str:
        """As SQL compares it, on one line."""
        shown = " ".join(self.value.splitlines())
        return f"{identifier(self.table)}.{identifier(self.column)} = {literal(shown)}"


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """The word without the commonest English endings; only equal results matter.

    >>> [stem(word) for word in ("countries", "races", "singing", "class")]
    ['country', 'rac', 'sing', 'class']
    """
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    for ending in ("ing", "ed", "er", "e"):
        if len(word) - len(ending) >= 3 and word.endswith(ending):
            return word[: -len(ending)]
    return word


def words(text: str) -> list[str]:
    """Stems of the words of a text or name, split at underscores and capitals, without stop words.

    >>> words("the StuID of pet_owners")
    ['stu', 'id', 'pet', 'own']
    """
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text).casefold()
    return [stem(word) for word in re.findall(r"[^\W_]+", split) if word not in _STOPWORDS]


class Bm25:
    """BM25 over documents that are lists of words. Equal inputs give equal scores in every process."""

    def __init__(self, documents: Sequence[list[str]]) -> None:
        self._size = len(documents)
        self._index = bm25s.BM25(backend="numpy")
        if any(documents):  # bm25s cannot index nothing
            self._index.index(documents, show_progress=False)

    def scores(self, query: Sequence[str]) -> np.ndarray:
        """The score of each document; a word counts once, however often the query repeats it."""
        known = [word for word in dict.fromkeys(query) if word in getattr(self._index, "vocab_dict", ())]
        return self._index.get_scores(known) if known else np.zeros(self._size, np.float32)

    def save(self, folder: Path) -> None:
        self._index.save(str(folder), show_progress=False)

    @classmethod
    def load(cls, folder: Path, size: int) -> "Bm25":
        """Read what `save` wrote; `size` is the number of documents."""
        made = cls([])
        made._size, made._index = size, bm25s.BM25.load(str(folder))
        return made


class ValueIndex:
    """The distinct text values of a database of up to LONGEST_VALUE characters, by the words in them.

    An index that took over a second to build is kept in `cache`, in a folder named after the hashes of the file
    and of this code. Raises InputError if that folder is damaged.
    """

    def __init__(self, schema: Schema, cache: Path = _CACHE) -> None:
        kept = cache / f"{sha256(schema.path)}-{sha256(Path(__file__))[:8]}"
        if kept.is_dir():
            try:
                self._places = json.loads((kept / "values.json").read_text(encoding="utf-8"))
                self._bm25 = Bm25.load(kept, len(self._places))
            except (OSError, ValueError, EOFError) as error:
                raise InputError(f"{kept}: a database's values, a cache, is damaged ({error}); delete it") from error
            return
        start = time.perf_counter()
        self._places, complete = _read_values(schema)
        self._bm25 = Bm25([words(value) for value, _ in self._places])
        if (seconds := time.perf_counter() - start) > _SLOW and self._places and complete:
            log.info("%s: indexed %d values in %.1f s", schema.path, len(self._places), seconds)
            self._keep(kept)

    def _keep(self, folder: Path) -> None:
        """Write the index to `folder`, whole or not at all. If writing fails, it is built anew each time."""
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as made:
                self._bm25.save(Path(made))
                (Path(made) / "values.json").write_text(json.dumps(self._places), encoding="utf-8")
                os.chmod(made, 0o755)  # for other users too
                os.rename(made, folder)
        except OSError as error:
            if not folder.is_dir():  # else another process was faster
                log.warning("%s: the values' index cannot be kept (%s)", folder, error.strerror)

    @property
    def values(self) -> list[str]:
        """All values, sorted."""
        return [value for value, _ in self._places]

    def mentioned(self, text: str, count: int) -> list[Mention]:
        """The up to `count` values that `text` mentions, the longest and best covered first."""
        scores = self._bm25.scores(words(text))
        found = np.flatnonzero(scores)
        best = found[np.argsort(-scores[found], kind="stable")][:_CANDIDATES]
        matcher = SequenceMatcher(None, "", text.casefold(), autojunk=False)
        ranked = []
        for number in best.tolist():
            value, places = self._places[number]
            cover = covered(matcher, value.strip().casefold())
            if cover >= _LEAST_COVER:
                ranked += [(cover * cover * len(value), Mention(*place, value, cover)) for place in places]
        return [mention for _, mention in sorted(ranked, key=lambda pair: -pair[0])[:count]]


def covered(matcher: SequenceMatcher, piece: str) -> float:
    """The share of `piece` that is in the matcher's second text as one substring."""
    matcher.set_seq1(piece)
    return matcher.find_longest_match().size / len(piece) if piece else 0.0


def _read_values(schema: Schema) -> tuple[list[tuple[str, list[tuple[str, str]]]], bool]:
    """Each value with its (table, column) pairs, in the order of the values; and whether every table could be read.

    Values that a prompt cannot show as they are, with a tab or a no-break space, say, are left out.
    """
    places: dict[str, list[tuple[str, str]]] = {}
    unread = {table.name for table in schema.tables}
    with open_read_only(schema.path) as connection:
        for table in schema.tables:
            with reading(connection, schema.path, table, "no values"):
                for column in table.columns:
                    name = quote(column.name)
                    rows = connection.execute(
                        f"SELECT DISTINCT {name} FROM {quote(table.name)} "
                        f"WHERE typeof({name}) = 'text' AND length({name}) BETWEEN 1 AND {LONGEST_VALUE}"
                    )
                    for (value,) in rows:
                        places.setdefault(value, []).append((table.name, column.name))
                unread.remove(table.name)
    shown = ((value, where) for value, where in places.items() if value.isprintable() and "\ufffd" not in value)
    return sorted(shown), not unread
