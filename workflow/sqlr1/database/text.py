"""The schema as prompt text: `compact` for small models, `ddl` as in OmniSQL and SQL-R1."""

import math
from functools import lru_cache

from sqlr1.database.schema import Schema, Table, identifier, open_read_only, quote, reading

_LONGEST_EXAMPLE = 40  # characters
_Examples = dict[tuple[str, str], list[str]]  # (table, column) -> SQL literals


def schema_text(schema: Schema, style: str, example_values: int, whole: Schema | None = None) -> str:
    """All tables of the schema as text for the prompt. `whole` is what it was cut from: its examples are read once.

    `compact` has one line per table, `song(song_id*, title, singer_id->singer)`: `*` marks a primary key, `->` the
    table that a foreign key refers to (with its column unless that is the primary key). `ddl` is CREATE TABLE with one
    column per line and `-- comment, example: [v1, v2]`. Both show `example_values` values, compact for texts only.
    """
    examples = _examples(whole or schema, example_values) if example_values else {}
    write, separator = {"compact": (_compact_table, "\n"), "ddl": (_ddl_table, "\n\n")}[style]
    return separator.join(write(schema, table, examples) for table in schema.tables)


def _compact_table(schema: Schema, table: Table, examples: _Examples) -> str:
    columns = []
    for column in table.columns:
        text = identifier(column.name) + ("*" if column.primary_key else "")
        for key in schema.foreign_keys:
            if (key.table, key.column) == (table.name, column.name):
                implied = schema.table(key.parent).primary_key == (key.parent_column,)
                text += f"->{identifier(key.parent)}" + ("" if implied else f".{identifier(key.parent_column)}")
                break
        values = [v for v in examples.get((table.name, column.name), []) if v.startswith("'")]
        columns.append(text + (f" [{', '.join(values)}]" if values else ""))
    return f"{identifier(table.name)}({', '.join(columns)})"


def _ddl_table(schema: Schema, table: Table, examples: _Examples) -> str:
    lines = []  # (definition, comment)
    for column in table.columns:
        definition = [identifier(column.name), column.type, "NOT NULL" if column.not_null else ""]
        values = examples.get((table.name, column.name))
        comment = [column.description, f"example: [{', '.join(values)}]" if values else ""]
        lines.append((" ".join(filter(None, definition)), ", ".join(filter(None, comment))))
    if table.primary_key:
        lines.append((f"PRIMARY KEY ({', '.join(map(identifier, table.primary_key))})", ""))
    for key in schema.foreign_keys:
        if key.table == table.name:
            target = f"{identifier(key.parent)} ({identifier(key.parent_column)})"
            lines.append((f"FOREIGN KEY ({identifier(key.column)}) REFERENCES {target}", ""))
    commas = [","] * (len(lines) - 1) + [""]
    shown = [
        f"  {text}{comma}" + (f" -- {comment}" if comment else "")
        for (text, comment), comma in zip(lines, commas, strict=True)
    ]
    return "\n".join([f"CREATE {'VIEW' if table.kind == 'view' else 'TABLE'} {identifier(table.name)} (", *shown, ");"])


@lru_cache(maxsize=4096)
def _examples(schema: Schema, count: int) -> _Examples:
    """The first distinct short values of each column in row order; none of a table that cannot be read in time."""
    examples = {}
    with open_read_only(schema.path) as connection:
        for table in schema.tables:
            with reading(connection, schema.path, table, "no example values"):
                for column in table.columns:
                    name = quote(column.name)
                    rows = connection.execute(
                        f"SELECT DISTINCT {name} FROM (SELECT {name} FROM {quote(table.name)} LIMIT 200) WHERE {name} "
                        f"IS NOT NULL AND {name} <> '' AND length({name}) <= {_LONGEST_EXAMPLE} LIMIT {count}"
                    )
                    examples[table.name, column.name] = [literal(value) for (value,) in rows]
    return examples


def literal(value: object) -> str:
    """The value as an SQL literal on one line."""
    if isinstance(value, str):
        shown = "".join(character if character.isprintable() else " " for character in value)
        return "'" + shown.replace("'", "''") + "'"
    if value in (math.inf, -math.inf):
        return "9e999" if value > 0 else "-9e999"
    return f"x'{value.hex()}'" if isinstance(value, bytes) else str(value)
