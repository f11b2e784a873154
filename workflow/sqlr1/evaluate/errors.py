"""Why an answer is wrong: its kinds of error, from the parsed prediction and gold and from what the sandbox said.

The first kind, by the order of `KINDS`, is the primary one: what failed to run comes first, then what changes the
whole query (set operation, nesting, tables), then single clauses. Columns are compared by name, and by table too if
nothing else differs. `gold_disputed` is never primary beside another kind: it marks candidates for a second look, in
which only selected columns are added, or in which one side takes the first row by ORDER BY and the other all ties.
Whether a literal is a value of the database is not looked up.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlglot import exp

from sqlr1.database.sql import parse, to_sql
from sqlr1.sandbox import Verdict

KINDS = (
    "no_sql", "unknown_table", "unknown_column", "syntax", "time_out", "too_large", "refused",
    "set_operation", "nesting", "tables", "join", "join_key",
    "literal_case", "literal_format", "literal", "predicate_missing", "predicate_extra", "predicate",
    "group_having", "aggregate", "order_limit", "distinct",
    "columns_missing", "columns_extra", "columns_order", "columns", "other", "gold_disputed",
)  # fmt: skip
_BY_VERDICT = {Verdict.TIMED_OUT: "time_out", Verdict.TOO_LARGE: "too_large", Verdict.REFUSED: "refused"}
_BY_MESSAGE = {
    "no such table": "unknown_table", "no such column": "unknown_column", "syntax error": "syntax",
    "incomplete input": "syntax", "unrecognized token": "syntax",
}  # fmt: skip


def error_kinds(answer: Mapping[str, Any], gold: str) -> list[str]:
    """The kinds of a wrong answer (`sql`, `verdict`, `error`, as in a row of the evaluator), the primary one first.

    Empty for a right answer, and for one whose gold could not be judged.
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
    return query_kinds(answer["sql"], gold)


def query_kinds(predicted: str, gold: str) -> list[str]:
    """In what a query that ran differs from its gold; ["other"] if in nothing, or if one of them does not parse."""
    expression, _ = parse(predicted)
    for qualified in (False, True):
        wanted = _gold_parts(gold, qualified)
        if expression is None or wanted is None:
            return ["other"]
        if found := _compared(_parts(expression, qualified), wanted):
            return sorted(found, key=KINDS.index)
    return ["other"]


def add_kinds(rows: Iterable[dict[str, Any]]) -> None:
    """Set `kinds` in the answers (`greedy`, `vote`) of the evaluator's rows."""
    for row in rows:
        for method in ("greedy", "vote"):
            if method in row:
                row[method]["kinds"] = error_kinds(row[method], row["gold"])


def primary_counts(rows: Iterable[Mapping[str, Any]], method: str = "greedy") -> dict[str, int]:
    """How many wrong answers of the evaluator's rows have each primary kind, in the order of `KINDS`."""
    counts = Counter(kinds[0] for row in rows if (kinds := row.get(method, {}).get("kinds")))
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


@lru_cache(maxsize=4096)
def _gold_parts(gold: str, qualified: bool) -> dict[str, Any] | None:
    expression, _ = parse(gold)
    return None if expression is None else _parts(expression, qualified)


def _parts(expression: exp.Expression, qualified: bool) -> dict[str, Any]:
    """What is compared, as normalised text: whole-query counts, and the clauses of all blocks together."""
    expression = expression.copy()
    _read_quoted_values(expression)
    nodes = list(expression.walk())
    ctes = {node.alias.lower() for node in nodes if isinstance(node, exp.CTE)}
    tables = [n for n in nodes if isinstance(n, exp.Table) and n.name.lower() not in ctes]
    aliases = {table.alias_or_name.lower(): table.name.lower() for table in tables}
    selects = [n for n in nodes if isinstance(n, exp.Select)]
    parts: dict[str, Any] = {
        "tables": {table.name.lower() for table in tables},
        "sets": Counter(type(n) for n in nodes if isinstance(n, exp.SetOperation)),
        "distinct": sum(isinstance(n, exp.Distinct) for n in nodes),
        "ties": any(isinstance(n, (exp.Max, exp.Min)) and n.find_ancestor(exp.Subquery, exp.Having) for n in nodes),
        # The blocks of a set operation are not nested.
        "nested": sum(n.parent is not None and not isinstance(n.parent, exp.SetOperation) for n in selects),
        "joins": Counter(str(n.side or "").upper() for n in nodes if isinstance(n, exp.Join)),
        **{name: Counter() for name in ("keys", "predicates", "having", "group", "order", "limit", "aggregates")},
    }
    outer = expression
    while isinstance(outer, exp.SetOperation):
        outer = outer.this
    outer = outer.unnest()

    def text(node: exp.Expression) -> str:
        return _text(node, aliases if qualified else None)

    parts["columns"] = [text(n.unalias()) for n in outer.expressions] if isinstance(outer, exp.Select) else []
    for select in selects:
        conditions = [c for n in (select.args.get("where"),) if n for c in _conditions(n.this)]
        for join in select.args.get("joins") or ():
            conditions += _conditions(join.args["on"]) if join.args.get("on") else []
            parts["keys"].update(text(column) for column in join.args.get("using") or ())
        for node in conditions:
            if isinstance(node, exp.EQ) and all(isinstance(side, exp.Column) for side in (node.this, node.expression)):
                parts["keys"][" = ".join(sorted((text(node.this), text(node.expression))))] += 1
            else:
                parts["predicates"][_predicate(node, text)] += 1
        if group := select.args.get("group"):
            parts["group"].update(text(n) for n in group.expressions)
        if having := select.args.get("having"):
            parts["having"].update(_sql(c, aliases if qualified else None) for c in _conditions(having.this))
        ordered = select.args["order"].expressions if select.args.get("order") else []
        parts["order"].update((i, text(n.this), bool(n.args.get("desc"))) for i, n in enumerate(ordered))
        for node in (select.args.get("limit"), select.args.get("offset")):
            parts["limit"].update([text(node)] if node else [])
        for shown in (*select.expressions, *ordered):
            found = (n for n in shown.find_all(exp.AggFunc) if n.find_ancestor(exp.Select) is select)
            parts["aggregates"].update(n.key for n in found)
    return parts


def _read_quoted_values(expression: exp.Expression) -> None:
    """Spider writes values as `"France"`: a quoted name on the right of a comparison is text, as in SQLite."""
    for node in list(expression.find_all(exp.Binary, exp.In, exp.Between)):
        values = node.expressions or [node.args.get(key) for key in ("expression", "low", "high")]
        for value in values:
            if isinstance(value, exp.Column) and not value.table and value.this.args.get("quoted"):
                value.replace(exp.Literal.string(value.name))


def _conditions(node: exp.Expression) -> list[exp.Expression]:
    """The operands of AND and OR."""
    node = node.unnest()
    return _conditions(node.this) + _conditions(node.expression) if isinstance(node, exp.Connector) else [node]


def _predicate(node: exp.Expression, text: Any) -> tuple[str, tuple[str, ...]]:
    """A condition without its literals, and these; a subquery in it has conditions of its own."""
    node = node.copy()
    for query in list(node.find_all(exp.Select)):
        query.replace(exp.Placeholder())
    literals = tuple(n.sql() for n in node.find_all(exp.Literal))
    for literal in list(node.find_all(exp.Literal)):
        literal.replace(exp.Placeholder())
    return text(node), literals


def _text(node: exp.Expression, aliases: Mapping[str, str] | None) -> str:
    """Lower-case text; every aggregate is `agg`, DISTINCT is left out: both are compared apart."""

    def plain(n: exp.Expression) -> exp.Expression:
        if isinstance(n, exp.AggFunc):
            inner = n.this.expressions[0] if isinstance(n.this, exp.Distinct) else n.this
            return exp.Anonymous(this="agg", expressions=[inner] if inner else [])
        return n

    return _sql(node.transform(plain), aliases)


def _sql(node: exp.Expression, aliases: Mapping[str, str] | None) -> str:
    """SQL in lower case; columns with their tables' names, or (aliases None) without."""
    node = node.copy()
    for column in node.find_all(exp.Column):
        table = (aliases or {}).get(column.table.lower()) if column.table else None
        column.set("table", exp.to_identifier(table) if table else None)
        if isinstance(column.this, exp.Identifier):
            column.this.set("quoted", False)
    return to_sql(node).lower()


def _compared(new: Mapping[str, Any], gold: Mapping[str, Any]) -> set[str]:
    pairs = (
        ("sets", "set_operation"), ("nested", "nesting"), ("tables", "tables"), ("joins", "join"),
        ("group", "group_having"), ("having", "group_having"), ("order", "order_limit"), ("limit", "order_limit"),
        ("aggregates", "aggregate"), ("distinct", "distinct"),
    )  # fmt: skip
    found = {kind for part, kind in pairs if new[part] != gold[part]}
    if new["keys"] != gold["keys"] and new["joins"] == gold["joins"]:
        found.add("join_key")
    found |= _columns(new["columns"], gold["columns"]) | _predicates(new["predicates"], gold["predicates"])
    first_or_all = (a["limit"] and not b["limit"] and b["ties"] for a, b in ((gold, new), (new, gold)))
    if found == {"columns_extra"} or any(first_or_all):
        found.add("gold_disputed")
    return found


def _columns(new: Sequence[str], gold: Sequence[str]) -> set[str]:
    missing, extra = Counter(gold) - Counter(new), Counter(new) - Counter(gold)
    if missing and extra:
        return {"columns"}
    if missing or extra:
        return {"columns_missing" if missing else "columns_extra"}
    return {"columns_order"} if new != gold else set()


def _predicates(new: Counter, gold: Counter) -> set[str]:
    """The same condition with other literals is a wrong literal; what is left over is missing, extra or wrong."""
    missing, extra = list((gold - new).elements()), list((new - gold).elements())
    found = set()
    for form, literals in list(missing):
        if other := next((e for e in extra if e[0] == form), None):
            missing.remove((form, literals))
            extra.remove(other)
            found.add(_literal(other[1], literals))
    if missing or extra:
        found.add("predicate" if missing and extra else "predicate_missing" if missing else "predicate_extra")
    return found


def _literal(new: Sequence[str], gold: Sequence[str]) -> str:
    if [n.lower() for n in new] == [n.lower() for n in gold]:
        return "literal_case"
    bare = [["".join(filter(str.isalnum, n)).lower() for n in side] for side in (new, gold)]
    return "literal_format" if bare[0] == bare[1] and any(bare[0]) else "literal"
