"""Schema linking: the part of a schema that a question is about, found by BM25 over names and descriptions."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from sqlr1.database.files import description_rows
from sqlr1.database.retrieval import Bm25, Mention, covered, words
from sqlr1.database.schema import Schema

Place = tuple[str, str]  # (table, column)
_TOLD = ("column_name", "column_description", "value_description")  # what of BIRD's descriptions is searched
# Chosen on half of BIRD dev's databases and Spider's training set with `benchmarks/linking.py`.
_TABLE = 1.0  # weight of a table's own score in that of its columns
_NAME = 6.0  # for a column's whole name in the question
_LEAST_COVER = 0.6  # share of a name that has to be in the question to count
_VALUE = 20.0  # for a value of the column in the question


class Linker:
    """Ranks the columns of a schema by their relevance to a question, and cuts the schema to the first of them.

    A column's words are those of its name, its comment and its row of BIRD's `database_description/<table>.csv`, if
    there is one beside the database. A table's are its name and all of its columns' words.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._places = [(table.name, column.name) for table in schema.tables for column in table.columns]
        described = {
            (table.lower(), row.get("original_column_name", "").strip().lower()): " ".join(
                row.get(n, "") for n in _TOLD
            )
            for table, row in description_rows(schema.path)
        }
        own = {}
        for table in schema.tables:
            for column in table.columns:
                text = (
                    f"{column.name} {column.description} {described.get((table.name.lower(), column.name.lower()), '')}"
                )
                own[table.name, column.name] = words(text)
        self._columns = Bm25([words(table) + own[table, column] for table, column in self._places])
        self._tables = Bm25(
            [words(t.name) + [word for c in t.columns for word in own[t.name, c.name]] for t in schema.tables]
        )
        self._neighbours: dict[str, list[str]] = {table.name: [] for table in schema.tables}
        for key in schema.foreign_keys:
            self._neighbours[key.table].append(key.parent)
            self._neighbours[key.parent].append(key.table)

    def ranked(self, text: str, mentions: Sequence[Mention] = ()) -> list[Place]:
        """All columns, the most relevant to `text` first. Equals keep the schema's order."""
        query = words(text)
        matcher = SequenceMatcher(None, "", _letters(text), autojunk=False)
        table_scores = {
            table.name: float(score) + _named(matcher, table.name)
            for table, score in zip(self.schema.tables, self._tables.scores(query), strict=True)
        }
        valued = {(mention.table, mention.column): mention.cover for mention in mentions}
        scores = {
            place: float(score)
            + _TABLE * table_scores[place[0]]
            + _named(matcher, place[1])
            + _VALUE * valued.get(place, 0.0)
            for place, score in zip(self._places, self._columns.scores(query), strict=True)
        }
        return sorted(self._places, key=lambda place: -scores[place])

    def cut(self, kept: Sequence[Place]) -> Schema:
        """The schema with the columns `kept` alone, and what joins need.

        That is each kept table's primary key, the foreign keys between kept tables, and tables on the shortest path of
        foreign keys from a kept table to those before it.
        """
        tables = self._connected(dict.fromkeys(table for table, _ in kept))
        keys = [key for key in self.schema.foreign_keys if key.table in tables and key.parent in tables]
        wanted = {*kept, *((k.table, k.column) for k in keys), *((k.parent, k.parent_column) for k in keys)}
        made = (
            replace(t, columns=tuple(c for c in t.columns if c.primary_key or (t.name, c.name) in wanted))
            for t in self.schema.tables
            if t.name in tables
        )
        return replace(self.schema, tables=tuple(made), foreign_keys=tuple(keys))

    def _connected(self, tables: Iterable[str]) -> set[str]:
        joined: set[str] = set()
        for table in tables:
            joined |= {table, *self._path(table, joined)}
        return joined

    def _path(self, table: str, ends: set[str]) -> list[str]:
        """The tables between `table` and the nearest of `ends`; none if no foreign keys lead there."""
        paths, seen = deque([[table]]), {table}
        while paths:
            path = paths.popleft()
            if path[-1] in ends:
                return path[1:-1]
            for name in self._neighbours[path[-1]]:
                if name not in seen:
                    seen.add(name)
                    paths.append([*path, name])
        return []


def first_tables(ranked: Sequence[Place], count: int) -> list[Place]:
    """Of `ranked`, the columns of the `count` tables that come first in it."""
    names = list(dict.fromkeys(table for table, _ in ranked))[:count]
    return [place for place in ranked if place[0] in names]


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def _named(matcher: SequenceMatcher, name: str) -> float:
    cover = covered(matcher, _letters(name))
    return _NAME * cover if cover >= _LEAST_COVER else 0.0
