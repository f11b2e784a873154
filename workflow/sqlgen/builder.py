"""Plans to sqlglot expressions, and those to SQLite text."""

from sqlglot import exp

from sqlgen.query_plan import Filter, Having, Measure, Query, Ref
from sqlr1.database import identifier
from sqlr1.database.sql import exact

_COMPARISONS = {"=": exp.EQ, "!=": exp.NEQ, ">": exp.GT, "<": exp.LT, ">=": exp.GTE, "<=": exp.LTE}
_FUNCTIONS = {"count": exp.Count, "sum": exp.Sum, "avg": exp.Avg, "min": exp.Min, "max": exp.Max}


def name(text: str) -> exp.Identifier:
    """An identifier, quoted only where SQLite needs it."""
    return exp.Identifier(this=text, quoted=identifier(text) != text)


def literal(value: object) -> exp.Expression:
    """A string, number or NULL literal."""
    if value is None:
        return exp.Null()
    if isinstance(value, str):
        return exp.Literal.string(value)
    value = exact(value)
    if value < 0:
        return exp.Neg(this=exp.Literal(this=repr(-value), is_string=False))
    return exp.Literal(this=repr(value), is_string=False)


def ordered(key: exp.Expression, descending: bool) -> exp.Ordered:
    """A sort key with SQLite's own placing of NULLs, so that nothing about them need be written."""
    return exp.Ordered(this=key, desc=True) if descending else exp.Ordered(this=key, nulls_first=True)


class Builder:
    """Builds one SELECT block. Tables are aliased T1, T2, ... when there is more than one, as Spider writes them."""

    def __init__(self, query: Query, first_alias: int = 1) -> None:
        self.query = query
        self._aliased = len(query.tables) > 1 or first_alias > 1
        self._first = first_alias

    def column(self, ref: Ref) -> exp.Column:
        """A column, qualified where the block has aliases."""
        table = exp.to_identifier(f"T{self._first + ref.occurrence}") if self._aliased else None
        return exp.Column(this=name(ref.column), table=table)

    def table(self, occurrence: int) -> exp.Table:
        """A table of the FROM clause with its alias."""
        alias = exp.TableAlias(this=exp.to_identifier(f"T{self._first + occurrence}")) if self._aliased else None
        return exp.Table(this=name(self.query.tables[occurrence]), alias=alias)

    def output(self, item: Ref | Measure) -> exp.Expression:
        """A column or an aggregate."""
        if isinstance(item, Ref):
            return self.column(item)
        inner: exp.Expression = exp.Star() if item.ref is None else self.column(item.ref)
        if item.distinct:
            inner = exp.Distinct(expressions=[inner])
        return _FUNCTIONS[item.function](this=inner)

    def condition(self, item: Filter | Having) -> exp.Expression:
        """A WHERE or HAVING condition."""
        left = self.output(item.measure) if isinstance(item, Having) else self.column(item.ref)
        op, value = item.op, item.value
        if op in _COMPARISONS:
            return _COMPARISONS[op](this=left, expression=self._value(value))
        if op in ("in", "not_in"):
            member = exp.In(this=left, **self._members(value))
            return exp.Not(this=member) if op == "not_in" else member
        if op == "between":
            return exp.Between(this=left, low=literal(value[0]), high=literal(value[1]))
        if op == "null":
            return exp.Is(this=left, expression=exp.Null())
        if op == "not_null":
            return exp.Not(this=exp.Is(this=left, expression=exp.Null()))
        if op == "year":
            year = exp.Anonymous(this="strftime", expressions=[exp.Literal.string("%Y"), left])
            return exp.EQ(this=year, expression=literal(str(value)))
        pattern = {"prefix": f"{value}%", "suffix": f"%{value}", "contains": f"%{value}%"}[op]
        return exp.Like(this=left, expression=exp.Literal.string(pattern))

    def _value(self, value: object) -> exp.Expression:
        return exp.Subquery(this=select(value)) if isinstance(value, Query) else literal(value)

    def _members(self, value: object) -> dict[str, object]:
        if isinstance(value, Query):
            return {"query": exp.Subquery(this=select(value))}
        return {"expressions": [literal(v) for v in value]}

    def select(self) -> exp.Select:
        """The whole block."""
        query = self.query
        result = exp.Select(expressions=[self.output(o) for o in query.outputs])
        result.set("from_", exp.From(this=self.table(0)))
        for number, join in enumerate(query.joins, 1):
            on = exp.EQ(this=self.column(join.left), expression=self.column(join.right))
            result.append("joins", exp.Join(this=self.table(number), on=on))
        if query.distinct:
            result.set("distinct", exp.Distinct())
        if query.filters:
            conditions = [self.condition(f) for f in query.filters]
            joined = exp.or_(*conditions, copy=False) if query.any_of else exp.and_(*conditions, copy=False)
            result.set("where", exp.Where(this=joined))
        if query.group:
            result.set("group", exp.Group(expressions=[self.column(r) for r in query.group]))
        if query.having:
            result.set("having", exp.Having(this=exp.and_(*[self.condition(h) for h in query.having], copy=False)))
        if query.order:
            keys = [ordered(self.output(o.key), o.descending) for o in query.order]
            result.set("order", exp.Order(expressions=keys))
        if query.limit is not None:
            result.set("limit", exp.Limit(expression=literal(query.limit)))
        return result


def select(query: Query) -> exp.Select:
    """The SELECT expression of a plan."""
    return Builder(query).select()


def column(table: str, text: str) -> exp.Column:
    """A column; `table` is an alias, or empty for an unqualified name."""
    return exp.Column(this=name(text), table=exp.to_identifier(table) if table else None)


def source(text: str, alias: str = "") -> exp.Table:
    """A table of a FROM clause."""
    return exp.Table(this=name(text), alias=exp.TableAlias(this=exp.to_identifier(alias)) if alias else None)


def named(expression: exp.Expression, alias: str) -> exp.Alias:
    """`expression AS alias`."""
    return exp.Alias(this=expression, alias=name(alias))


def aggregate(function: str, argument: exp.Expression | None = None) -> exp.Expression:
    """`function(argument)`, or of `*`."""
    return _FUNCTIONS[function](this=argument or exp.Star())


def year_of(date: exp.Expression) -> exp.Expression:
    """The year of a date as text: strftime('%Y', date)."""
    return exp.Anonymous(this="strftime", expressions=[exp.Literal.string("%Y"), date])


def over(
    function: exp.Expression, partition: exp.Expression | None = None, order: exp.Ordered | None = None
) -> exp.Window:
    """`function OVER (PARTITION BY ... ORDER BY ...)`."""
    return exp.Window(
        this=function,
        partition_by=[partition] if partition else None,
        order=exp.Order(expressions=[order]) if order else None,
    )


def quotient(numerator: exp.Expression, denominator: exp.Expression) -> exp.Div:
    """`numerator / denominator` as SQLite divides: integers stay integers, and by zero is NULL."""
    return exp.Div(this=numerator, expression=denominator, typed=True, safe=True)


def count_if(condition: exp.Expression) -> exp.Sum:
    """`SUM(CASE WHEN condition THEN 1 ELSE 0 END)`."""
    case = exp.Case(ifs=[exp.If(this=condition, true=literal(1))], default=literal(0))
    return exp.Sum(this=case)
