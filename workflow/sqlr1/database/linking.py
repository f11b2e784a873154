"""Schema linking: the part of a schema that a question is about, found by BM25 over names and descriptions."""

import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from sqlglot import exp

from sqlr1.database.files import description_rows
from sqlr1.database.retrieval import Bm25, Mention, covered, stem, words
from sqlr1.database.schema import Schema
from sqlr1.database.sql import aliases_around, parse

Place = tuple[str, str]  # (table, column)
_TOLD = ("column_name", "column_description", "value_description")  # what of BIRD's descriptions is searched
# What a question asks for in other words than those of names. Spider's training set and the BIRD dev databases with an
# even number by name were used to choose these and the weights (`benchmarks/linking.py --databases even`).
_HINTS = {
    r"\b(1[5-9]|20)\d\d\b": ["year", "date"],
    r"(?i)\bwhen\b": ["date", "year", "time"],
    r"(?i)\bwhere\b": ["city", "country", "location", "address"],
    r"(?i)\bwho(m|se)?\b": ["name"],
    r"\b[A-Z][a-z]+ [A-Z][a-z]+\b": ["first", "last", "name", "forename", "surname"],  # Lewis Hamilton
}
_OWN_NAME = 3  # how often a column's name counts among its words
_TABLE = 1.0  # weight of a table's own score in that of its columns
_LABEL = 1.5  # the same for names and titles: questions say what they hold, "Lewis Hamilton", not what they are called
_TABLE_NAME, _COLUMN_NAME = 2.0, 6.0  # for the share of a name that the question contains as one piece,
_LEAST_COVER = 0.5  # if it is at least this
_VALUE = 8.0  # for a value of the column in the question


class Linker:
    """Ranks the columns of a schema by their relevance to a question, and cuts the schema to the first of them.

    A column's words are those of its name, its comment and its row of BIRD's `database_description/<table>.csv`, if
    there is one beside the database. A table's are its name and all of its columns' words.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._places = [(table.name, column.name) for table in schema.tables for column in table.columns]
        told = {}
        for table, row in description_rows(schema.path):
            place = table.lower(), row.get("original_column_name", "").strip().lower()
            told[place] = " ".join(row.get(name, "") for name in _TOLD)
        own, whole = {}, {}
        for table in schema.tables:
            whole[table.name] = words(table.name)
            for column in table.columns:
                text = f"{column.description} {told.get((table.name.lower(), column.name.lower()), '')}"
                own[table.name, column.name] = words(text) + _OWN_NAME * words(column.name)
                whole[table.name] += own[table.name, column.name]
        self._columns = Bm25([words(table) + own[table, column] for table, column in self._places])
        self._tables = Bm25(list(whole.values()))
        self._neighbours: dict[str, list[str]] = {table.name: [] for table in schema.tables}
        for key in schema.foreign_keys:
            self._neighbours[key.table].append(key.parent)
            self._neighbours[key.parent].append(key.table)

    def ranked(self, text: str, mentions: Sequence[Mention] = ()) -> list[Place]:
        """All columns, the most relevant to `text` first. Ties keep the schema's order."""
        query = words(text)
        for pattern, hints in _HINTS.items():
            if re.search(pattern, text):
                query += map(stem, hints)
        matcher = SequenceMatcher(None, "", _letters(text), autojunk=False)
        tables = {
            table.name: float(score) + _TABLE_NAME * _named(matcher, table.name)
            for table, score in zip(self.schema.tables, self._tables.scores(query), strict=True)
        }
        valued = {(mention.table, mention.column): mention.cover for mention in mentions}
        scores = {
            (table, column): float(score)
            + (_LABEL if re.search("name|title", column, re.IGNORECASE) else _TABLE) * tables[table]
            + _COLUMN_NAME * _named(matcher, column)
            + _VALUE * valued.get((table, column), 0.0)
            for (table, column), score in zip(self._places, self._columns.scores(query), strict=True)
        }
        return sorted(self._places, key=lambda place: -scores[place])

    def cut(self, kept: Sequence[Place]) -> Schema:
        """The schema with the columns `kept` alone, and what joins need.

        That is each kept table's primary key, the foreign keys between kept tables, and tables on the shortest path of
        foreign keys from a kept table to those before it.
        """
        tables: set[str] = set()
        for table in dict.fromkeys(table for table, _ in kept):
            tables |= {table, *self._path(table, tables)}
        keys = [key for key in self.schema.foreign_keys if key.table in tables and key.parent in tables]
        wanted = {*kept, *((k.table, k.column) for k in keys), *((k.parent, k.parent_column) for k in keys)}
        made = (
            replace(t, columns=tuple(c for c in t.columns if c.primary_key or (t.name, c.name) in wanted))
            for t in self.schema.tables
            if t.name in tables
        )
        return replace(self.schema, tables=tuple(made), foreign_keys=tuple(keys))

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


def gold_parts(sql: str, columns: Mapping[str, set[str]]) -> tuple[set[str], set[tuple[str, str]], set[str]]:
    """Tables, columns and text literals of a query, in lower case but for the literals. Empty if not parsed."""
    expression, _ = parse(sql)
    if expression is None:
        return set(), set(), set()
    around = aliases_around(expression)
    tables = {table.name.lower() for table in expression.find_all(exp.Table)} & columns.keys()
    found, literals = set(), {x.this for x in expression.find_all(exp.Literal) if x.is_string}
    for column in expression.find_all(exp.Column):
        outwards = around(column)
        named = [a[column.table.lower()] for a in outwards if column.table.lower() in a]
        near = sorted({name for a in outwards[:1] for name in a.values()})
        owners = named if column.table else [*near, *sorted(tables)]
        owned = [(t, column.name.lower()) for t in owners if column.name.lower() in columns.get(t, ())]
        found |= set(owned[:1])
        if column.this.args.get("quoted") and not owned:  # Spider writes texts in double quotes
            literals.add(column.name)
    return tables, found, literals


def recall_counts(tables: set[str], columns: set[tuple[str, str]], kept: Mapping[str, set[str]]) -> Counter[str]:
    """How many of a gold's tables and columns there are, and are in `kept`; sums over questions give the recall."""
    missed = {(table, column) for table, column in columns if column not in kept.get(table, ())}
    counts = {"questions": 1, "tables": len(tables), "tables kept": len(tables & set(kept))}
    counts |= {"columns": len(columns), "columns kept": len(columns) - len(missed)}
    return Counter(counts | {"all tables": int(tables <= set(kept)), "all columns": int(not missed)})


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def _named(matcher: SequenceMatcher, name: str) -> float:
    cover = covered(matcher, _letters(name))
    return cover if cover >= _LEAST_COVER else 0.0
