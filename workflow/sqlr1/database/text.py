"""The schema as prompt text: `compact` for small models, `ddl` as in OmniSQL and SQL-R1."""

from functools import lru_cache

from sqlr1.database.schema import Column, Schema, Table, identifier, open_read_only, quote

STYLES = ("compact", "ddl")
_LONGEST_EXAMPLE = 40


def schema_text(schema: Schema, style: str, example_values: int) -> str:
    """The schema as text for the prompt; all tables are kept.

    `compact` has one line per table, `song(song_id*, title, singer_id->singer)`: `*` marks a primary key, `->` the
    table that a foreign key refers to (with its column unless that is the primary key). `ddl` is CREATE TABLE with
    one line per column and `-- comment, example: [v1, v2]`. Both show up to `example_values` values per column,
    `compact` for text columns only.
    """
    if style not in STYLES:
        raise ValueError(f"unknown schema style {style!r}: expected one of {STYLES}")
    examples = _examples(schema, example_values) if example_values else {}
    write = _compact_table if style == "compact" else _ddl_table
    return ("\n" if style == "compact" else "\n\n").join(write(schema, table, examples) for table in schema.tables)


def _compact_table(schema: Schema, table: Table, examples: dict[tuple[str, str], list[str]]) -> str:
    columns = []
    for column in table.columns:
        text = identifier(column.name) + ("*" if column.primary_key else "")
        for key in schema.foreign_keys:
            if (key.table, key.column) == (table.name, column.name):
                implied = schema.table(key.parent).primary_key == (key.parent_column,)
                text += f"->{key.parent}" + ("" if implied else f".{key.parent_column}")
                break
        values = [v for v in examples.get((table.name, column.name), []) if v.startswith("'")]
        columns.append(text + (f" [{', '.join(values)}]" if values else ""))
    return f"{identifier(table.name)}({', '.join(columns)})"


def _ddl_table(schema: Schema, table: Table, examples: dict[tuple[str, str], list[str]]) -> str:
    bodies = [
        (_ddl_column(column), _remark(column, examples.get((table.name, column.name), []))) for column in table.columns
    ]
    if table.primary_key:
        bodies.append((f"PRIMARY KEY ({', '.join(map(identifier, table.primary_key))})", ""))
    for key in schema.foreign_keys:
        if key.table == table.name:
            target = f"{identifier(key.parent)} ({identifier(key.parent_column)})"
            bodies.append((f"FOREIGN KEY ({identifier(key.column)}) REFERENCES {target}", ""))
    lines = []
    for number, (body, remark) in enumerate(bodies):
        comma = "," if number < len(bodies) - 1 else ""
        lines.append(f"  {body}{comma}{' -- ' + remark if remark else ''}")
    return "\n".join([f"CREATE TABLE {identifier(table.name)} (", *lines, ");"])


def _ddl_column(column: Column) -> str:
    return " ".join(filter(None, [identifier(column.name), column.type, "NOT NULL" if column.not_null else ""]))


def _remark(column: Column, values: list[str]) -> str:
    return ", ".join(filter(None, [column.description, f"example: [{', '.join(values)}]" if values else ""]))


@lru_cache(maxsize=4096)
def _examples(schema: Schema, count: int) -> dict[tuple[str, str], list[str]]:
    """By (table, column): the first `count` different short values in the order of the rows, as SQL literals."""
    examples = {}
    with open_read_only(schema.path) as connection:
        for table in schema.tables:
            for column in table.columns:
                name = quote(column.name)
                rows = connection.execute(
                    f"SELECT DISTINCT {name} FROM (SELECT {name} FROM {quote(table.name)} LIMIT 200) "
                    f"WHERE {name} IS NOT NULL AND {name} <> '' AND length({name}) <= {_LONGEST_EXAMPLE} LIMIT {count}"
                )
                examples[table.name, column.name] = [_literal(value) for (value,) in rows]
    return examples


def _literal(value: object) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''").replace("\n", " ") + "'"
    return f"x'{value.hex()}'" if isinstance(value, bytes) else str(value)
