"""Why an answer is wrong: its kinds of error, from the parsed prediction and gold and from what the sandbox said.

The first kind, by the order of `KINDS`, is the primary one: what failed to run comes first, then what changes the
whole query (set operation, nesting, tables), then single clauses. Columns are compared by name, and by table too if
nothing else differs. A condition with a subquery that one side has and the other lacks, all else being equal, is a
missing or extra predicate. A wrong literal is `literal_absent` if the compared column does not have it.

`gold_disputed` is never primary beside another kind: it marks candidates for a second look, in which only selected
columns are added, or in which one side takes the first row by ORDER BY and the other all ties. Ties come after every
other difference, because they decide a verdict only if all else is right.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from sqlglot import exp

from sqlr1.database.lookup import has_value
from sqlr1.database.schema import columns_of, read_schema
from sqlr1.database.sql import aliases_around, parse, to_sql
from sqlr1.evaluate.formats import database_path
from sqlr1.sandbox import Verdict

KINDS = (
    "no_sql", "unknown_table", "unknown_column", "syntax", "time_out", "too_large", "refused",
    "set_operation", "nesting", "tables", "join", "join_key",
    "literal_case", "literal_format", "literal_absent", "literal",
    "predicate_missing", "predicate_extra", "predicate",
    "columns_missing", "columns_extra", "group_having", "aggregate", "order_limit", "distinct",
    "columns_order", "columns", "other", "gold_disputed",
)  # fmt: skip
_BY_VERDICT = {Verdict.TIMED_OUT: "time_out", Verdict.TOO_LARGE: "too_large", Verdict.REFUSED: "refused"}
_BY_MESSAGE = {
    "no such table": "unknown_table", "no such column": "unknown_column",
    "ambiguous column name": "unknown_column", "syntax error": "syntax",
    "incomplete input": "syntax", "unrecognized token": "syntax",
}  # fmt: skip
_CLAUSES = ("keys", "predicates", "having", "group", "order", "limit", "selected", "ordered")


def error_kinds(answer: Mapping[str, Any], gold: str, database: Path | None = None) -> list[str]:
    """The kinds of a wrong answer (`sql`, `verdict`, `error`, as in a row of the evaluator), the primary one first.

    Empty for a right answer, and for one whose gold could not be judged. Without the SQLite file `database` no literal
    is looked up.
    """
    verdict = Verdict(answer["verdict"])
    if verdict is Verdict.MATCH or verdict.is_gold_fault:
        return []
    if not answer["sql"].strip():
        return ["no_sql"]
    if verdict in _BY_VERDICT:
        return [_BY_VERDICT[verdict]]
    if verdict is not Verdict.MISMATCH:
        return [next((kind for text, kind in _BY_MESSAGE.items() if text in answer["error"]), "other")]
    return query_kinds(answer["sql"], gold, database)


def query_kinds(predicted: str, gold: str, database: Path | None = None) -> list[str]:
    """In what a query that ran differs from its gold; ["other"] if in nothing, or if one of them does not parse."""
    for qualified in (False, True):
        new, wanted = _parts(predicted, qualified, database), _parts(gold, qualified, database)
        if new is None or wanted is None:
            return ["other"]
        found = _compared(new, wanted, database)
        if "nesting" in found:
            found = _without_nesting(found, predicted, gold, qualified, database)
        if found:
            late = {"order_limit"} if "gold_disputed" in found else set()  # ties
            return sorted(found, key=lambda kind: (kind == "gold_disputed", kind in late, KINDS.index(kind)))
    return ["other"]


def add_kinds(rows: Iterable[dict[str, Any]], databases: Path) -> None:
    """Set `kinds` in the answers (`greedy`, `vote`) of the evaluator's rows; `databases` is the folder of the files."""
    path = cache(lambda db_id: database_path(databases, db_id))
    for row in rows:
        for method in ("greedy", "vote"):
            if method in row:
                row[method]["kinds"] = error_kinds(row[method], row["gold"], path(row["db_id"]))


def primary_counts(rows: Iterable[Mapping[str, Any]], method: str = "greedy") -> dict[str, int]:
    """How many wrong answers of the evaluator's rows have each primary kind, in the order of `KINDS`."""
    counts = Counter(kinds[0] for row in rows if (kinds := row.get(method, {}).get("kinds")))
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


@lru_cache(maxsize=4096)
def _parts(
    sql: str, qualified: bool, database: Path | None, dropped: frozenset[Any] = frozenset()
) -> dict[str, Any] | None:
    """What is compared, as normalised text: whole-query counts, and the clauses of all blocks together.

    None if `sql` does not parse. `dropped` are conditions, as in `subqueries`, to be left out.
    """
    expression, _ = parse(sql)
    if expression is None:
        return None
    ctes = {cte.alias.lower() for cte in expression.find_all(exp.CTE)}
    _resolve_names(expression, ctes, database)
    text = partial(_text, qualified=qualified)
    subqueries = _drop_conditions(expression, dropped, text)
    nodes = list(expression.walk())
    queries = [n for n in nodes if isinstance(n, (exp.Select, exp.SetOperation)) and n.parent]
    outer = expression
    while isinstance(outer, exp.SetOperation):
        outer = outer.this
    outer = outer.unnest()
    shown = [n.unalias() for n in outer.expressions] if isinstance(outer, exp.Select) else []
    parts: dict[str, Any] = {
        "subqueries": subqueries,
        "tables": {n.name.lower() for n in nodes if isinstance(n, exp.Table) and n.name.lower() not in ctes},
        "sets": Counter(type(n) for n in nodes if isinstance(n, exp.SetOperation)),
        "distinct": sum(isinstance(n, exp.Distinct) for n in nodes),
        "ties": any(isinstance(n, (exp.Max, exp.Min)) and n.find_ancestor(exp.Subquery, exp.Having) for n in nodes),
        # The blocks of a set operation are not nested.
        "nested": sum(not isinstance(n.parent, exp.SetOperation) for n in queries),
        "joins": Counter(str(n.side or "").upper() for n in nodes if isinstance(n, exp.Join)),
        "columns": [text(n) for n in shown],
        "shown": [_sql(n, False) for n in shown],
        "conditions": {},
        **{clause: Counter() for clause in _CLAUSES},
    }
    for node in nodes:
        if isinstance(node, exp.Select):
            _add_block(parts, node, qualified)
    return parts


def _resolve_names(expression: exp.Expression, ctes: Collection[str], database: Path | None) -> None:
    """Put tables' names in place of aliases, and text in place of quoted names that are no columns."""
    tables = {table.name.lower() for table in expression.find_all(exp.Table)} - ctes
    columns = _columns_of(database) if database else {}
    _read_quoted_values(expression, {name for table in tables for name in columns.get(table, ())})
    around = aliases_around(expression)
    for column in list(expression.find_all(exp.Column)):
        alias = column.table.lower()
        table = next((aliases[alias] for aliases in around(column) if alias in aliases), "")
        column.set("table", exp.to_identifier(table) if table in tables else None)


def _drop_conditions(expression: exp.Expression, dropped: Collection[Any], text: Any) -> dict[Any, bool]:
    """The conditions with a subquery, and whether that takes a maximum or minimum; those in `dropped` are removed."""
    subqueries = {}
    for clause in list(expression.find_all(exp.Where, exp.Having)):
        conditions = _conditions(clause.this)
        named = {_predicate(c, text): c for c in conditions if c.find(exp.Query)}
        subqueries |= {form: c.find(exp.Max, exp.Min) is not None for form, c in named.items()}
        if kept := [c for c in conditions if not any(c is named.get(form) for form in dropped)]:
            clause.set("this", exp.and_(*kept, copy=False) if len(kept) < len(conditions) else clause.this)
        else:
            clause.pop()
    return subqueries


def _add_block(parts: dict[str, Any], select: exp.Select, qualified: bool) -> None:
    """Add the clauses of one SELECT to the counts of the whole query."""
    text = partial(_text, qualified=qualified)
    conditions = _conditions(select.args["where"].this) if select.args.get("where") else []
    for join in select.args.get("joins") or ():
        conditions += _conditions(join.args["on"]) if join.args.get("on") else []
        parts["keys"].update(text(column) for column in join.args.get("using") or ())
    for node in conditions:
        if isinstance(node, exp.EQ) and all(isinstance(side, exp.Column) for side in (node.this, node.expression)):
            parts["keys"][" = ".join(sorted((text(node.this), text(node.expression))))] += 1
        else:
            form = _predicate(node, text)
            parts["predicates"][form] += 1
            parts["conditions"][form] = node
    if group := select.args.get("group"):
        parts["group"].update(text(n) for n in group.expressions)
    if having := select.args.get("having"):
        parts["having"].update(_sql(c, qualified) for c in _conditions(having.this))
    ordered = select.args["order"].expressions if select.args.get("order") else []
    parts["order"].update((i, text(n.this), bool(n.args.get("desc"))) for i, n in enumerate(ordered))
    for node in (select.args.get("limit"), select.args.get("offset")):
        parts["limit"].update([text(node)] if node else [])
    for name, shown in (("selected", select.expressions), ("ordered", ordered)):
        for node in shown:
            found = (n.key for n in node.find_all(exp.AggFunc) if n.find_ancestor(exp.Select) is select)
            parts[name][text(node.unalias()), tuple(sorted(found))] += 1


@cache
def _columns_of(database: Path) -> dict[str, set[str]]:
    return columns_of(read_schema(database))


def _read_quoted_values(expression: exp.Expression, columns: Collection[str]) -> None:
    """Spider writes values as `"France"`: a quoted name on the right of a comparison is text, unless it is a column."""
    for node in list(expression.find_all(exp.Predicate)):
        values = node.expressions or [node.args.get(key) for key in ("expression", "low", "high")]
        for value in values:
            if not isinstance(value, exp.Column) or value.table or value.name.lower() in columns:
                continue
            if value.this.args.get("quoted"):
                value.replace(exp.Literal.string(value.name))


def _conditions(node: exp.Expression) -> list[exp.Expression]:
    """The operands of AND and OR."""
    found, rest = [], [node]
    while rest:
        node = rest.pop().unnest()
        if isinstance(node, exp.Connector):
            rest += [node.expression, node.this]
        else:
            found.append(node)
    return found


def _predicate(node: exp.Expression, text: Any) -> tuple[str, tuple[str, ...]]:
    """A condition without its literals, and these; a subquery in it has conditions of its own."""
    node = node.copy()
    for query in list(node.find_all(exp.Select)):
        query.replace(exp.Placeholder())
    literals = tuple(n.sql() for n in node.find_all(exp.Literal))
    for literal in list(node.find_all(exp.Literal)):
        literal.replace(exp.Placeholder())
    return text(node), literals


def _text(node: exp.Expression, qualified: bool) -> str:
    """Lower-case text; aggregates and DISTINCT are left out: both are compared apart."""

    def plain(n: exp.Expression) -> exp.Expression:
        if isinstance(n, exp.AggFunc):
            return (next(iter(n.this.expressions), None) if isinstance(n.this, exp.Distinct) else n.this) or exp.Star()
        return n

    return _sql(node.transform(plain), qualified)


def _sql(node: exp.Expression, qualified: bool) -> str:
    """SQL in lower case; columns with their tables' names or without."""
    node = node.copy()
    for column in node.find_all(exp.Column):
        if not qualified:
            column.set("table", None)
        if isinstance(column.this, exp.Identifier):
            column.this.set("quoted", False)
    return to_sql(node).lower()


def _without_nesting(found: set[str], predicted: str, gold: str, qualified: bool, database: Path | None) -> set[str]:
    """The kinds without the conditions with subqueries that only the side with more subqueries has.

    `found` itself, if these conditions alone do not explain the nesting.
    """
    new, wanted = _parts(predicted, qualified, database), _parts(gold, qualified, database)
    missing = wanted["nested"] > new["nested"]
    more, less = (wanted, new) if missing else (new, wanted)
    dropped = frozenset(form for form in more["subqueries"] if form not in less["subqueries"])
    rest = _compared(
        _parts(predicted, qualified, database, frozenset() if missing else dropped),
        _parts(gold, qualified, database, dropped if missing else frozenset()),
        database,
    )
    if dropped and less["limit"] and not more["limit"] and all(more["subqueries"][form] for form in dropped):
        return rest | {"order_limit", "gold_disputed"}
    if not dropped or any(KINDS.index(kind) <= KINDS.index("predicate") for kind in rest):
        return found
    return rest | {"predicate_missing" if missing else "predicate_extra"}


def _compared(new: Mapping[str, Any], gold: Mapping[str, Any], database: Path | None) -> set[str]:
    pairs = (
        ("sets", "set_operation"), ("nested", "nesting"), ("tables", "tables"), ("joins", "join"),
        ("group", "group_having"), ("having", "group_having"), ("order", "order_limit"), ("limit", "order_limit"),
        ("distinct", "distinct"),
    )  # fmt: skip
    found = {kind for part, kind in pairs if new[part] != gold[part]}
    if new["keys"] != gold["keys"] and new["joins"] == gold["joins"]:
        found.add("join_key")
    found |= _columns(new["columns"], gold["columns"]) | _predicates(new, gold, database)
    if _aggregates_differ(new, gold):
        found.add("aggregate")
    elif new["columns"] == gold["columns"] and new["shown"] != gold["shown"] and not found:  # min, max for max, min
        found.add("columns_order")
    # A condition that went from HAVING to WHERE, or back.
    moved = new["having"].total() - gold["having"].total()
    found -= {"predicate_extra"} if moved < 0 else {"predicate_missing"} if moved > 0 else set()
    first_or_all = (a["limit"] and not b["limit"] and b["ties"] for a, b in ((gold, new), (new, gold)))
    if found == {"columns_extra"} or any(first_or_all):
        found.add("gold_disputed")
    return found


def _aggregates_differ(new: Mapping[str, Any], gold: Mapping[str, Any]) -> bool:
    """Whether a column has another aggregate or none, or one with an aggregate is in place of one with another.

    In ORDER BY too, if it names the same columns.
    """
    for part in ("selected", "ordered") if new["order"] == gold["order"] else ("selected",):
        mine, wanted = new[part] - gold[part], gold[part] - new[part]
        if {text for text, _ in mine} & {text for text, _ in wanted}:
            return True
        own, other = ({functions for _, functions in side if functions} for side in (mine, wanted))
        if own and other and own != other and len(new["columns"]) == len(gold["columns"]):
            return True
    return False


def _columns(new: Sequence[str], gold: Sequence[str]) -> set[str]:
    missing, extra = Counter(gold) - Counter(new), Counter(new) - Counter(gold)
    if missing and extra:
        return {"columns"}
    if missing or extra:
        return {"columns_missing" if missing else "columns_extra"}
    return {"columns_order"} if new != gold else set()


def _predicates(new: Mapping[str, Any], gold: Mapping[str, Any], database: Path | None) -> set[str]:
    """The same condition with other literals is a wrong literal; what is left over is missing, extra or wrong."""
    missing = list((gold["predicates"] - new["predicates"]).elements())
    extra = list((new["predicates"] - gold["predicates"]).elements())
    found = set()
    for form, literals in list(missing):
        if other := next((e for e in extra if e[0] == form), None):
            missing.remove((form, literals))
            extra.remove(other)
            kind = _literal(other[1], literals)
            absent = kind == "literal" and database and _is_absent(new, other, literals, database)
            found.add("literal_absent" if absent else kind)
    if missing or extra:
        found.add("predicate" if missing and extra else "predicate_missing" if missing else "predicate_extra")
    return found


def _literal(new: Sequence[str], gold: Sequence[str]) -> str:
    if [n.lower() for n in new] == [n.lower() for n in gold]:
        return "literal_case"
    bare = [["".join(filter(str.isalnum, n)).lower() for n in side] for side in (new, gold)]
    return "literal_format" if bare[0] == bare[1] and any(bare[0]) else "literal"


def _is_absent(parts: Mapping[str, Any], form: Any, gold: Sequence[str], database: Path) -> bool:
    """Whether the condition asks for equality with a literal, not one of the gold's, that the column does not have."""
    node = parts["conditions"][form]
    node = node.this if isinstance(node, exp.Not) else node
    column = node.this
    if not isinstance(node, (exp.EQ, exp.NEQ, exp.In, exp.Like)) or not isinstance(column, exp.Column):
        return False
    tables = (column.table,) if column.table else tuple(sorted(parts["tables"]))
    values = node.expressions or [node.args.get("expression")]
    wanted = [v for v in values if isinstance(v, exp.Literal) and v.sql() not in gold]
    like = isinstance(node, exp.Like)
    return any(has_value(database, tables, column.name, v.this, v.is_string, like) is False for v in wanted)
