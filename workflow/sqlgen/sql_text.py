"""Query plans as SQLite text, written exactly as `to_sql` writes the parsed text."""

from collections.abc import Sequence

from sqlgen.query_plan import Filter, Measure, QueryPlan, Ref
from sqlr1.database import text
from sqlr1.database.schema import identifier
from sqlr1.database.sql import exact

_PATTERNS = {"prefix": "{}%", "contains": "%{}%"}


def literal(value: str | float) -> str:
    """A value as an SQL literal; 3.0 is 3."""
    return text.literal(exact(value))


def year_of(date: str) -> str:
    return f"STRFTIME('%Y', {date})"


def count_if(condition: str) -> str:
    return f"SUM(CASE WHEN {condition} THEN 1 ELSE 0 END)"


def sort_key(key: str, descending: bool) -> str:
    return f"{key} DESC" if descending else key


class Block:
    """Writes one SELECT block. Several tables get the aliases T1, T2, ..., as in Spider.

    With `first_alias`, aliases start at that number and a single table gets one too.
    """

    def __init__(self, plan: QueryPlan, first_alias: int | None = None) -> None:
        self.plan = plan
        self._first = first_alias or (1 if len(plan.tables) > 1 else None)

    def column(self, ref: Ref) -> str:
        """A column, with its table's alias if there is one."""
        name = identifier(ref.column)
        return f"T{self._first + ref.occurrence}.{name}" if self._first else name

    def output(self, item: Ref | Measure) -> str:
        if isinstance(item, Ref):
            return self.column(item)
        argument = self.column(item.ref) if item.ref else "*"
        return f"{item.function.upper()}({'DISTINCT ' if item.distinct else ''}{argument})"

    def condition(self, item: Filter) -> str:
        """A condition of WHERE or HAVING."""
        left = self.output(item.ref)
        op, value = item.op, item.value
        inner = Block(value).select() if isinstance(value, QueryPlan) else None
        if op in ("in", "not_in"):
            members = inner or ", ".join(map(literal, value))
            return f"{left} {'IN' if op == 'in' else 'NOT IN'} ({members})"
        if op == "between":
            return f"{left} BETWEEN {literal(value[0])} AND {literal(value[1])}"
        if op in ("null", "not_null"):
            return f"{left} {'IS NULL' if op == 'null' else 'IS NOT NULL'}"
        if op == "year":
            return f"{year_of(left)} = {literal(str(value))}"
        if op in _PATTERNS:
            return f"{left} LIKE {literal(_PATTERNS[op].format(value))}"
        return f"{left} {op} {f'({inner})' if inner else literal(value)}"

    def source(self, occurrence: int = 0) -> str:
        """A table of the FROM clause with its alias."""
        name = identifier(self.plan.tables[occurrence])
        return f"{name} AS T{self._first + occurrence}" if self._first else name

    def select(self, outputs: Sequence[str] = (), group: Sequence[str] = ()) -> str:
        """The whole block. `outputs` and `group`, as SQL, replace those of the plan."""
        plan = self.plan
        outputs = outputs or [self.output(item) for item in plan.outputs]
        group = group or [self.column(ref) for ref in plan.group]
        clauses = [f"SELECT {'DISTINCT ' if plan.distinct else ''}{', '.join(outputs)} FROM {self.source()}"]
        for number, join in enumerate(plan.joins, 1):
            clauses.append(f"JOIN {self.source(number)} ON {self.column(join.left)} = {self.column(join.right)}")
        if plan.filters:
            word = " OR " if plan.any_of else " AND "
            clauses.append(f"WHERE {word.join(map(self.condition, plan.filters))}")
        if group:
            clauses.append(f"GROUP BY {', '.join(group)}")
        if plan.having:
            clauses.append(f"HAVING {' AND '.join(map(self.condition, plan.having))}")
        if plan.order:
            keys = [sort_key(self.output(item.key), item.descending) for item in plan.order]
            clauses.append(f"ORDER BY {', '.join(keys)}")
        if plan.limit is not None:
            clauses.append(f"LIMIT {plan.limit}")
        return " ".join(clauses)
