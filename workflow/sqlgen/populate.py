"""Own databases: a domain's YAML file (tables, columns, how values are drawn) becomes a populated SQLite file.

A column is `KIND arguments [skew] [null P] [-- description]`. Kinds: key; ref TABLE; self COLUMN (an earlier row);
int LOW HIGH; real LOW HIGH; date FROM TO; after|before [TABLE.]COLUMN MIN MAX (days, of this row or of the row referred
to); near TABLE.COLUMN LOW HIGH (a factor); choice A*weight|B; distinct A|B; city N; the kinds of `_FAKED` and the
patterns of vocabulary.yaml. `skew` draws low values (or few parents) more often. The same seed gives the same bytes.
"""

import random
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import yaml
from faker import Faker

_DOMAINS = Path(__file__).parent / "domains"
_VOCABULARY = yaml.safe_load(Path(__file__).with_name("vocabulary.yaml").read_text(encoding="utf-8"))
_TYPES = dict.fromkeys(("key", "ref", "self", "int"), "INTEGER") | {"real": "REAL", "near": "REAL"}
_TYPES |= dict.fromkeys(("date", "after", "before"), "DATE")
_OPTION = re.compile(r"\s(skew|null ([\d.]+))$")
_FAKED: dict[str, Callable[[Faker, str], str]] = {
    "name": lambda faker, _: f"{faker.first_name()} {faker.last_name()}",
    "email": lambda faker, _: faker.ascii_safe_email(),
    "company": lambda faker, _: faker.company(),
    "phone": lambda faker, _: faker.numerify("0## #######"),
    "plate": lambda faker, _: faker.bothify("??-### ?").upper(),
    "eatery": lambda faker, _: (
        f"{faker.random_element(['Chez', 'Casa', 'Cafe', 'The Old', 'Little'])} {faker.last_name()}"
    ),
    "code": lambda faker, pattern: faker.bothify(pattern.replace("X", "?")).upper(),  # X: a letter, #: a digit
}


@dataclass(frozen=True)
class _Column:
    name: str
    kind: str
    arguments: str
    skew: bool
    null: float
    description: str

    @classmethod
    def parse(cls, name: str, text: str) -> "_Column":
        text, _, description = text.partition(" -- ")
        skew, null = False, 0.0
        while match := _OPTION.search(text):
            skew, null = skew or match[1] == "skew", float(match[2] or null)
            text = text[: match.start()]
        kind, _, arguments = text.partition(" ")
        return cls(name, kind, arguments, skew, null, description)

    @property
    def weighted(self) -> list[str | int]:
        """The values of a choice, each as often as its weight; integers when all are digits."""
        items = [item.partition("*") for item in self.arguments.split("|")]
        numeric = all(value.isdigit() for value, _, _ in items)
        return [int(value) if numeric else value for value, _, weight in items for _ in range(int(weight or 1))]

    @property
    def type(self) -> str:
        if self.kind == "choice":
            return "INTEGER" if isinstance(self.weighted[0], int) else "TEXT"
        return _TYPES.get(self.kind, "TEXT")


def build_database(domain: str, seed: int, path: Path) -> None:
    """Write the populated database of a file in `domains` to `path`."""
    tables = yaml.safe_load((_DOMAINS / f"{domain}.yaml").read_text(encoding="utf-8"))
    filler = _Filler(domain, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with closing(sqlite3.connect(temporary)) as connection:
        for table, spec in tables.items():
            columns = [_Column.parse(name, text) for name, text in spec.items() if name != "rows"]
            connection.execute(_create(table, columns, filler.keys))
            rows = filler.fill(table, columns, spec["rows"])
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows)
        connection.commit()
        connection.execute("VACUUM")
    temporary.replace(path)


def _create(table: str, columns: list[_Column], keys: dict[str, str]) -> str:
    """CREATE TABLE with a line per column and the descriptions as comments. `keys`: primary keys of earlier tables."""
    bodies = []
    for column in columns:
        constraint = " PRIMARY KEY" if column.kind == "key" else "" if column.null else " NOT NULL"
        bodies.append((f"{column.name} {column.type}{constraint}", column.description))
    for column in columns:
        if column.kind in ("ref", "self"):
            own, argument = column.kind == "self", column.arguments
            target = f"{table} ({argument})" if own else f"{argument} ({keys[argument]})"
            bodies.append((f"FOREIGN KEY ({column.name}) REFERENCES {target}", ""))
    lines = [f"  {b}{',' if i < len(bodies) - 1 else ''}{' -- ' + d if d else ''}" for i, (b, d) in enumerate(bodies)]
    return f"CREATE TABLE {table} (\n" + "\n".join(lines) + "\n)"


class _Filler:
    """Draws the rows of one database, table by table; later tables refer to earlier ones."""

    def __init__(self, domain: str, seed: int) -> None:
        self._rng = random.Random(f"{domain}:{seed}")
        self._faker = Faker("en_US")
        self._faker.seed_instance(self._rng.randrange(2**32))
        self._rows: dict[str, list[dict[str, object]]] = {}
        self.keys: dict[str, str] = {}

    def fill(self, table: str, columns: list[_Column], count: int) -> list[tuple]:
        """The rows of a table, with values in the order of its columns."""
        self.keys[table] = next(c.name for c in columns if c.kind == "key")
        rows: list[dict[str, object]] = []
        pools = {c.name: self._pool(c, count) for c in columns}
        for number in range(count):
            row: dict[str, object] = {}
            parents: dict[str, dict[str, object]] = {}
            for column in columns:
                value = self._value(column, number, row, parents, pools[column.name])
                row[column.name] = None if column.null and self._rng.random() < column.null else value
            rows.append(row)
        self._rows[table] = rows
        return [tuple(row.values()) for row in rows]

    def _pool(self, column: _Column, count: int) -> list:
        """Values that are fixed before the first row: distinct ones, weighted ones, cities."""
        if column.kind == "distinct":
            return self._rng.sample(column.arguments.split("|"), count)
        if column.kind == "city":
            return self._rng.sample(_VOCABULARY["cities"], int(column.arguments))
        return column.weighted if column.kind == "choice" else []

    def _value(self, column: _Column, number: int, row: dict, parents: dict, pool: list) -> object:
        kind, arguments = column.kind, column.arguments.split()
        if kind == "key":
            return number + 1
        if kind == "ref":
            table = arguments[0]
            parents[table] = self._rows[table][int(self._draw(0, len(self._rows[table]), column.skew))]
            return parents[table][self.keys[table]]
        if kind == "self":
            return self._rng.randint(1, number) if number else None
        if kind == "int":
            return int(self._draw(int(arguments[0]), int(arguments[1]) + 1, column.skew))
        if kind == "real":
            return round(self._draw(float(arguments[0]), float(arguments[1]), column.skew), 2)
        if kind == "date":
            first, last = map(date.fromisoformat, arguments)
            return (first + timedelta(days=self._rng.randint(0, (last - first).days))).isoformat()
        if kind in ("after", "before", "near"):
            return self._related(kind, arguments, row, parents)
        if kind == "distinct":
            return pool[number]
        return self._rng.choice(pool) if kind in ("choice", "city") else self._worded(kind, column.arguments)

    def _related(self, kind: str, arguments: list[str], row: dict, parents: dict) -> object:
        """A date or number near that of another column, of this row or of its parent."""
        source, low, high = arguments
        table, _, name = source.rpartition(".")
        base = (parents[table] if table else row)[name]
        if base is None:
            return None
        if kind == "near":
            return round(base * self._rng.uniform(float(low), float(high)), 2)
        days = self._rng.randint(int(low), int(high))
        return (date.fromisoformat(base) + timedelta(days=days if kind == "after" else -days)).isoformat()

    def _draw(self, low: float, high: float, skew: bool) -> float:
        """A number in [low, high): uniform, or with the lower half 2.4 times as likely as the upper one."""
        return low + (high - low) * self._rng.random() ** (2 if skew else 1)

    def _worded(self, kind: str, arguments: str) -> str:
        """A text that Faker or a pattern of vocabulary.yaml makes."""
        if kind in _FAKED:
            return _FAKED[kind](self._faker, arguments)
        pattern = self._rng.choice(_VOCABULARY["patterns"][kind])
        return re.sub(r"\{(\w+)\}", lambda match: self._rng.choice(_VOCABULARY[match[1]]), pattern)
