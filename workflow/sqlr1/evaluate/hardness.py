"""Spider's hardness of a query (easy, medium, hard, extra) by the official rules, from the query's tokens.

The rules count in the outermost SELECT (of a set operation: in the first one):

- component 1: WHERE, GROUP BY, ORDER BY, LIMIT, each joined table, each OR, each LIKE;
- component 2: queries nested in a condition, and a set operation;
- others: more than one aggregate, more than one selected column, WHERE condition, GROUP BY column.

Two habits of the official counter are kept, since its labels are the standard: a negated condition (NOT IN, NOT LIKE)
counts as an aggregate; an aggregate in HAVING does not count, but each AND / OR there does.

Like the official counter this reads tokens: a full parser takes longer than running the query.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from sqlr1.sql_tokens import TOKEN

UNKNOWN = "unknown"
_DEEPEST = 100  # nested parentheses; SQLite's own parser stops at about as many
_SET_OPERATIONS = ("UNION", "INTERSECT", "EXCEPT")
_CLAUSES = ("SELECT", "FROM", "WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT")
_AGGREGATES = {"AVG", "COUNT", "GROUP_CONCAT", "MAX", "MIN", "SUM"}
_AGGREGATES |= {"CUME_DIST", "DENSE_RANK", "FIRST_VALUE", "LAG", "LAST_VALUE", "LEAD", "NTH_VALUE", "NTILE", "RANK"}
_ARITHMETIC = ("+", "-", "*", "/", "%", "||")

_CONNECTORS = (["AND"], ["OR"])

# Words in capitals; what is between two parentheses is a list of its own.
Tokens = list[Any]
# A condition without AND and OR, or the connector between two conditions; and whether it is negated.
Condition = tuple[Tokens, bool]


@lru_cache(maxsize=4096)
def spider_hardness(sql: str) -> str:
    """The hardness of a query; "unknown" if it is no SELECT, its parentheses do not match or are nested too deep.

    >>> spider_hardness("SELECT name FROM singer WHERE age > 20")
    'easy'
    """
    query = _nested(sql)
    clauses = _clauses(query)
    if not clauses:
        return UNKNOWN
    joins, on = _joins(clauses.get("FROM", []))
    where, having = (list(_conditions(clauses.get(name, []))) for name in ("WHERE", "HAVING"))
    conditions = [tokens for tokens, _ in [*on, *where, *having]]
    component1 = sum(clause in clauses for clause in ("WHERE", "GROUP", "ORDER", "LIMIT")) + joins
    component1 += sum("LIKE" in tokens or tokens == ["OR"] for tokens in conditions)
    component2 = sum(map(_nested_queries, conditions)) + any(word in query for word in _SET_OPERATIONS)
    select, group, order = (_split(clauses.get(name, []), ",") for name in ("SELECT", "GROUP", "ORDER"))
    aggregates = sum(map(_has_aggregate, [*select, *group, *order]))
    aggregates += sum(negated for _, negated in where + having)
    aggregates += sum(tokens in _CONNECTORS for tokens, _ in having)
    others = (aggregates > 1) + (len(select) > 1) + (len(where) > 1) + (len(group) > 1)
    return _level(component1, component2, others)


def _level(component1: int, component2: int, others: int) -> str:
    if component2 == 0:
        if component1 <= 1 and others == 0:
            return "easy"
        if (others <= 2 and component1 <= 1) or (component1 <= 2 and others < 2):
            return "medium"
        if (others > 2 and component1 <= 2) or (2 < component1 <= 3 and others <= 2):
            return "hard"
    elif component1 <= 1 and others == 0 and component2 <= 1:
        return "hard"
    return "extra"


def _nested(sql: str) -> Tokens:
    """The query's tokens without comments; none if the parentheses do not match or are nested too deep."""
    stack: list[Tokens] = [[]]
    for token in TOKEN.findall(sql):
        if token == "(":
            stack.append([])
        elif token != ")":
            if not token.startswith(("--", "/*", "\n")):
                stack[-1].append(token.upper())
        elif len(stack) == 1:
            return []
        else:
            inner = stack.pop()
            stack[-1].append(inner)
        if len(stack) > _DEEPEST:
            return []
    return stack[0] if len(stack) == 1 else []


def _clauses(query: Tokens) -> dict[str, Tokens]:
    """The clauses of the outermost (first) SELECT by their first word; none if there is no SELECT."""
    query = _unwrapped(query)
    if not _is_query(query) or "SELECT" not in query:
        return {}
    clauses: dict[str, Tokens] = {}
    for token in query[query.index("SELECT") :]:
        if token in _SET_OPERATIONS:
            break
        if token in _CLAUSES:
            clauses[token] = part = []
        elif token not in ("BY", ";"):
            part.append(token)
    return clauses


def _split(tokens: Tokens, separator: str) -> list[Tokens]:
    """The parts between separators; none of nothing."""
    parts: list[Tokens] = [[]] if tokens else []
    for token in tokens:
        if token == separator:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _joins(tokens: Tokens) -> tuple[int, list[Condition]]:
    """How many tables are joined to the first one, by JOIN or a comma, and the conditions of all ON."""
    tables = [table for part in _split(tokens, "JOIN") for table in _split(part, ",")]
    words = ("NATURAL", "LEFT", "RIGHT", "FULL", "INNER", "OUTER", "CROSS")  # they belong to the next JOIN
    found: list[Condition] = []
    for table in tables:
        if "ON" in table:
            found += _conditions([token for token in table[table.index("ON") + 1 :] if token not in words])
    return max(0, len(tables) - 1), found


def _conditions(tokens: Tokens, negated: bool = False) -> Iterator[Condition]:
    """The conditions and the connectors between them, from left to right."""
    parts: list[Tokens] = [[]] if tokens else []
    cases, between = 0, False
    for token in tokens:
        cases += (token == "CASE") - (token == "END")
        if token in ("AND", "OR") and not cases and not between:
            parts += [[token], []]
        else:
            parts[-1].append(token)
        between = token == "BETWEEN" or (between and token != "AND")
    for part in parts:
        nots = next((place for place, token in enumerate(part) if token != "NOT"), len(part))
        part, flipped = part[nots:], (negated and len(parts) == 1) != bool(nots % 2)
        if len(part) == 1 and isinstance(part[0], list) and not _is_query(part[0]):
            yield from _conditions(part[0], flipped)
        else:
            yield part, flipped != ("NOT" in part)


def _nested_queries(condition: Tokens) -> int:
    """How many sides of a condition are queries; one that is only a part of a sum or product does not count."""
    around = zip(["", *condition], condition, [*condition[1:], ""], strict=False)
    return sum(_is_query(part) and a not in _ARITHMETIC and b not in _ARITHMETIC for a, part, b in around)


def _is_query(token: Any) -> bool:
    return isinstance(token, list) and _unwrapped(token)[:1] in (["SELECT"], ["WITH"])


def _unwrapped(tokens: Tokens) -> Tokens:
    """The tokens inside parentheses that only surround them (or their beginning)."""
    while tokens and isinstance(tokens[0], list):
        tokens = tokens[0]
    return tokens


def _has_aggregate(tokens: Tokens) -> bool:
    """Whether an aggregate or window function is called, at any depth."""
    return any(
        _has_aggregate(token) if isinstance(token, list) else token in _AGGREGATES and isinstance(following, list)
        for token, following in zip(tokens, [*tokens[1:], ""], strict=False)
    )
