"""Responses that name only tables and columns of a database: a grammar for llguidance.

The grammar is a response of `sqlr1.prompt` around one SELECT statement of SQLite. A SELECT has a *scope*: tables in the
order of FROM, under their own names or as T1, T2, ... Each scope has rules of its own, so that a column is one of its
tables' although SELECT names it before FROM names the tables. Scopes, and what the names of their rules begin with:

- n, t: single tables and joins, under their own names (n, at most two tables) or as T1 to T4 (t). Foreign keys or
  shared column names link the tables of a join; a table that nothing links is joined with all. There are limits: the
  best links come first.
- l: other joins that begin with a pair of t. T1 and T2 keep their columns, T3 to T5 may have any column.
- j: other tables and joins as T1 to T5. Each may have any column.
- u: other tables under their own names, with any column.
- o: what follows WITH or a subquery in FROM, with any name.

SQLite may still refuse columns of l, j, u and o, ambiguous names, and an aggregate in ORDER BY without any before it.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from sqlr1.database.schema import Schema, is_plain, quote
from sqlr1.model.joins import Links, Scope, scopes_of

_MOST_TABLES = 5  # of any join

# Words that SQLite does not take as an alias.
_RESERVED = (
    "add|all|alter|and|as|autoincrement|between|case|check|collate|commit|constraint|create|default|deferrable|delete|distinct|drop|else|escape|except|exists|foreign|from|group|having|in|index"
    "|insert|intersect|into|is|isnull|join|limit|not|notnull|null|on|or|order|primary|references|select|set|table|then|to|transaction|union|unique|update|using|values|when|where|returning|nothing"
)
# A terminal is matched greedily and never given back. So it owns the blanks around it, and what follows a shorter match
# of it must not continue it. W is at least one blank, S may be none.
_TERMINALS = r"""
THOUGHT: /(?s:.*)<\/think>/ & ~/(?s:.*)(<think>|<\/?answer>)(?s:.*)/
OPEN: /S<answer>S```(sql)W/
CLOSE: /(W|S;S)```S<\/answer>/
SELECT: /(?i:select)W/
DISTINCT: /(?i:distinct)W/
FROM: /W(?i:from)W/
FROMSUB: /W(?i:from)S\(S/
JOIN: /W((?i:inner|left|left outer)W)?(?i:join)W/
ON: /W(?i:on)W/
WHERE: /W(?i:where)W/
GROUP: /W(?i:group)W(?i:by)W/
HAVING: /W(?i:having)W/
ORDER: /W(?i:order)W(?i:by)W/
FIRSTORDER: /(?i:order)W(?i:by)W/
PARTITION: /(?i:partition)W(?i:by)W/
OVER: /W(?i:over)S\(S/
WAY: /W(?i:asc|desc)/
LIMIT: /W(?i:limit)W[0-9]{1,6}/
OFFSET: /W(?i:offset)W[0-9]{1,6}/
SET: /W((?i:union)(W(?i:all))?|(?i:intersect)|(?i:except))W/
AND: /W(?i:and)W/
OR: /W(?i:or)W/
NOT: /(?i:not)W/
EXISTS: /(?i:exists)S\(S/
IN: /W((?i:not)W)?(?i:in)S\(S/
LIKE: /W((?i:not)W)?(?i:like)W/
BETWEEN: /W((?i:not)W)?(?i:between)W/
ISNULL: /W(?i:is)W((?i:not)W)?(?i:null)/
CASE: /(?i:case)/
WHEN: /W(?i:when)W/
THEN: /W(?i:then)W/
ELSE: /W(?i:else)W/
END: /W(?i:end)/
CAST: /(?i:cast)\(S/
CASTEND: /W(?i:as)W(?i:real|integer|int|float|text|numeric)S\)/
ALIAS: /W(?i:as)W[A-Za-z_][A-Za-z0-9_]{0,40}/ & ~/(?s:.*)W(?i:RESERVED)/ & ~/(?s:.*)W(?i:RESERVED)/
COUNT: /(?i:count)\(S\*S\)/
AGGREGATE: /(?i:count|sum|avg|min|max|total|group_concat)\(S/
RANK: /(?i:rank|dense_rank|row_number)\(\)/
LAG: /(?i:lag|lead|first_value|last_value)\(S/
FN1: /(?i:abs|round|length|upper|lower|trim|date|julianday)\(S/
FN2: /(?i:round|ifnull|coalesce|nullif|instr|substr|strftime)\(S/
FN3: /(?i:substr|replace|coalesce)\(S/
MATH: /S(\|\||[-+*\/%])S/
COMPARE: /S(=|==|!=|<>|<=|>=|<|>)S/
COMMA: /S,S/
LEFT: /\(S/
RIGHT: /S\)/
STAR: /\*/
NUMBER: /-?[0-9]{1,15}(\.[0-9]{1,15})?/
TEXT: /'([^'\n`\x00]|'')*'/
QUOTED: /"[^"\n`\x00]*"/
WITH: /(?i:with)W/
RECURSIVE: /(?i:recursive)W/
WITHAS: /W(?i:as)S\(S/
WITHEND: /S\)W/
NAME: /[A-Za-z_][A-Za-z0-9_]{0,40}/
COLUMN: /([A-Za-z_][A-Za-z0-9_]{0,40}\.)?([A-Za-z_][A-Za-z0-9_]{0,40}|"[^"\n`]*")/
AS: /W(?i:as)W[A-Za-z_][A-Za-z0-9_]{0,40}/ & ~/(?s:.*)W(?i:RESERVED)/
"""

# one: a query of one column, for IN and comparisons.
_RULES = r"""
start: "<think>" think OPEN (query | with) CLOSE
think[lazy]: THOUGHT
sel: SELECT DISTINCT?
query: full | core1 (SET core1)+ | core2 (SET core2)+ | core3 (SET core3)+ | cores (SET cores)+ | derived
one: full1 | core1 (SET core1)+
with: WITH (NAME WITHAS query | RECURSIVE NAME names? WITHAS (numbers | core) SET core_o) more
names: LEFT NAME (COMMA NAME)* RIGHT
more: (RIGHT COMMA NAME WITHAS last)* WITHEND last
last: full_o | core_o (SET core_o)+
numbers: SELECT NUMBER (COMMA NUMBER)*
"""

# row: an expression of one row; val: one that may aggregate. {s} is the scope.
_SCOPE = r"""
full1_{s}: core1_{s} tail_{s}
full_{s}: (core_{s} | cores_{s}) tail_{s}
core1_{s}: sel item_{s} body_{s}
core2_{s}: sel item_{s} COMMA item_{s} body_{s}
core3_{s}: sel item_{s} COMMA item_{s} COMMA item_{s} body_{s}
core_{s}: sel item_{s} (COMMA item_{s})* body_{s}
cores_{s}: sel STAR body_{s}
body_{s}: FROM ({source}) (WHERE cond_{s})? (GROUP row_{s} (COMMA row_{s})* (HAVING hcond_{s})?)?
tail_{s}: (ORDER keys_{s})? (LIMIT OFFSET?)?
keys_{s}: val_{s} WAY? (COMMA val_{s} WAY?)*
item_{s}: val_{s} ALIAS?
col_{s}: {column}
row_{s}: term_{s} (MATH term_{s})*
term_{s}: TEXT | plain_{s} | LEFT row_{s} RIGHT | fn_{s}
fn_{s}: (FN1 row_{s} | FN2 row_{s} COMMA row_{s} | FN3 row_{s} COMMA row_{s} COMMA row_{s}) RIGHT | CAST row_{s} CASTEND
plain_{s}: col_{s} | NUMBER | case_{s} | LEFT {one} RIGHT
case_{s}: CASE (WHEN cond_{s} THEN row_{s})+ (ELSE row_{s})? END
val_{s}: vterm_{s} (MATH vterm_{s})*
vterm_{s}: plain_{s} | LEFT val_{s} RIGHT | agg_{s} | vfn_{s} | window_{s}
vfn_{s}: (FN1 val_{s} | FN2 val_{s} COMMA row_{s} | FN2 TEXT COMMA val_{s}) RIGHT | CAST val_{s} CASTEND
agg_{s}: COUNT | AGGREGATE DISTINCT? row_{s} RIGHT
window_{s}: (agg_{s} | RANK | LAG row_{s} RIGHT) OVER (parts_{s} (ORDER keys_{s})? | FIRSTORDER keys_{s})? RIGHT
parts_{s}: PARTITION row_{s} (COMMA row_{s})*
cond_{s}: test_{s} ((AND | OR) test_{s})*
test_{s}: row_{s} is_{s} | NOT test_{s} | LEFT cond_{s} RIGHT | EXISTS {query} RIGHT
is_{s}: (COMPARE | LIKE) other_{s} | ISNULL | BETWEEN other_{s} AND other_{s} | IN among_{s} RIGHT
among_{s}: {one} | other_{s} (COMMA other_{s})*
other_{s}: row_{s} | QUOTED
hcond_{s}: htest_{s} ((AND | OR) htest_{s})*
htest_{s}: val_{s} is_{s} | val_{s} COMPARE val_{s} | LEFT hcond_{s} RIGHT
"""


def response_grammar(schema: Schema) -> str:
    """The responses whose SQL names tables and columns of `schema` alone, in llguidance's dialect of Lark."""
    return "\n".join(_lines(schema))


def _lines(schema: Schema) -> Iterator[str]:
    tables, links = range(len(schema.tables)), Links(schema)
    scopes = scopes_of(links)
    columns = [[c.name for c in table.columns] for table in schema.tables]
    yield _blanks(_TERMINALS.replace("RESERVED", _RESERVED))
    for t, table in enumerate(schema.tables):
        yield f"TABLE{t}: /{_names([table.name])}/"
        yield f"COLUMN{t}: /{_names(columns[t])}/"
        yield f"OWN{t}: /{_names([table.name])}\\.{_names(columns[t])}/"
    every = _names({name for names in columns for name in names})
    yield f"ANY: /[tT][1-{_MOST_TABLES}]\\.{every}/"
    yield f"ANY3: /[tT][3-{_MOST_TABLES}]\\.{every}/"
    for place in range(1, _MOST_TABLES + 1):
        yield _blanks(f"AS{place}: /W((?i:as)W)?[tT]{place}/")
    for t, place in sorted(
        {(t, place) for scope in scopes if scope.aliased for place, t in enumerate(scope.tables, 1)}
    ):
        yield f"COLUMN{t}T{place}: /[tT]{place}\\.{_names(columns[t])}/"
    for together in {tuple(sorted(scope.tables)) for scope in scopes if len(scope.tables) > 1}:
        if unique := _unique(together, columns):
            yield f"UNIQUE{'_'.join(map(str, together))}: /{_names(unique)}/"
    yield _RULES
    own = [t for t in tables if Scope((t,), False) in scopes]
    lists = _Lists(links.alone)
    names = [*map(str, scopes)]
    for s, column, source in _shared_scopes(scopes, links, lists):
        names.append(s)
        yield f"on_{s}: col_{s} COMPARE col_{s} ((AND | OR) test_{s})*"
        for place in range(3 if s == "j" else 4, _MOST_TABLES + 1):
            more = f" more{place + 1}_{s}?" if place < _MOST_TABLES else ""
            yield f"more{place}_{s}: JOIN {lists.name(tables)} AS{place} ON on_{s}{more}"
        yield _SCOPE.format(s=s, column=column, source=source, one="one", query="full")
    if other := tables[len(own) :]:
        names.append("u")
        yield f"NAMED: /{every}/"
        yield _SCOPE.format(s="u", column="NAMED", source=lists.name(other), one="one", query="full")
    for numbers, name in lists.made.items():
        yield f"{name}: /{_names(schema.tables[t].name for t in numbers)}/"
    for kind in ("full", "full1", "core", "core1", "core2", "core3", "cores"):
        yield f"{kind}: " + " | ".join(f"{kind}_{name}" for name in names)
    for scope in scopes:
        yield from _scope_rules(scope, scopes, columns)
    source = "COLUMN AS? (JOIN COLUMN AS? ON cond_o | COMMA COLUMN AS?)*"
    yield _SCOPE.format(s="o", column="COLUMN", source=source, one="(full1_o | core1_o (SET core1_o)+)", query="full_o")
    yield "derived: sel COUNT FROMSUB query RIGHT AS? | " + " | ".join(f"derived{t}" for t in own)
    for t in own:
        rest = f"FROMSUB full_n{t} RIGHT AS (WHERE cond_o)? tail_o"
        yield f"derived{t}: sel COLUMN{t} (COMMA COLUMN{t})* {rest}"


def _scope_rules(scope: Scope, scopes: Sequence[Scope], columns: Sequence[Sequence[str]]) -> Iterator[str]:
    tables, single = scope.tables, len(scope.tables) == 1
    if scope.aliased:
        names = [f"COLUMN{t}T{place}" for place, t in enumerate(tables, 1)]
        sources = [f"TABLE{t} AS{place}" for place, t in enumerate(tables, 1)]
    else:
        names, sources = [f"OWN{t}" for t in tables], [f"TABLE{t}" for t in tables]
    source = sources[0]
    for place in range(1, len(tables)):
        earlier = " | ".join(names[:place])
        on = f"(({earlier}) COMPARE {names[place]} | {names[place]} COMPARE ({earlier}))"
        source += f" JOIN {sources[place]} ON {on} ((AND | OR) test_{scope})*"
    if single:
        names.append(f"COLUMN{tables[0]}")
    elif _unique(tables, columns):
        names.append(f"UNIQUE{'_'.join(map(str, sorted(tables)))}")
    one, query = "one", "full"
    if scope.aliased and single:  # its subqueries over T2 may mention T1
        inner = [s for s in scopes if s.aliased and len(s.tables) == 2 and s.tables[0] == tables[0]]
        one, query = (f"({' | '.join([q, *(f'sub_{q}_{s}' for s in inner)])})" for q in (one, query))
    yield _SCOPE.format(s=scope, column=" | ".join(names), source=source, one=one, query=query)
    if scope.aliased and len(tables) == 2:
        rest = f"FROM TABLE{tables[1]} AS2 (WHERE cond_{scope})? tail_{scope}"
        yield f"sub_one_{scope}: sel item_{scope} {rest}"
        yield f"sub_full_{scope}: sel (item_{scope} | STAR) {rest}"


def _unique(tables: Sequence[int], columns: Sequence[Sequence[str]]) -> list[str]:
    """The columns that only one of the tables has, which therefore need no qualifier."""
    seen = Counter(name.lower() for t in tables for name in columns[t])
    return [name for t in tables for name in columns[t] if seen[name.lower()] == 1]


class _Lists:
    """Terminals for lists of tables: a list of 1,000 symbols, many times, would be too long."""

    def __init__(self, common: Collection[int]) -> None:
        self.made: dict[tuple[int, ...], str] = {}
        self._common = frozenset(common)

    def name(self, tables: Collection[int]) -> str:
        """An expression for any of the tables. What many lists have in common is a list of its own."""
        common = self._common if self._common.issubset(tables) else frozenset()
        parts = [tuple(sorted(part)) for part in (common, frozenset(tables) - common) if part]
        return f"({' | '.join(self.made.setdefault(part, f'TABLES{len(self.made)}') for part in parts)})"


def _shared_scopes(scopes: Iterable[Scope], links: Links, lists: _Lists) -> Iterator[tuple[str, str, str]]:
    """The scopes l and j, as (name, columns, FROM)."""
    known = {scope.tables for scope in scopes if scope.aliased}
    for a, b in sorted(join for join in known if len(join) == 2):
        s = f"l{a}_{b}"
        if rest := _continued((a, b), s, known, links, lists):
            yield s, f"COLUMN{a}T1 | COLUMN{b}T2 | ANY3", f"TABLE{a} AS1 JOIN TABLE{b} AS2 ON on_{s} {rest}"
    firsts: dict[str, list[int]] = {}  # by the tables that may follow
    for a, others in enumerate(links.between):
        if seconds := [b for b in others if (a, b) not in known]:
            firsts.setdefault(lists.name(seconds), []).append(a)
    source = [f"{lists.name(a)} AS1 JOIN {seconds} AS2 ON on_j more3_j?" for seconds, a in firsts.items()]
    if single := [t for t in range(len(links.between)) if (t,) not in known]:
        source.append(f"{lists.name(single)} AS1")
    if source:
        yield "j", "ANY", " | ".join(source)


def _continued(join: tuple[int, ...], s: str, known: Collection[tuple[int, ...]], links: Links, lists: _Lists) -> str:
    """What may follow tables `join` so that they become a join without a scope of its own; empty if nothing."""
    place = len(join) + 1
    if place > _MOST_TABLES:
        return ""
    after = sorted(links.after(join))
    more = f" more{place + 1}_{s}?" if place < _MOST_TABLES else ""
    new = [t for t in after if (*join, t) not in known]
    joined = [f"JOIN {lists.name(new)} AS{place} ON on_{s}{more}"] if new else []
    for t in after:
        if (*join, t) in known and (rest := _continued((*join, t), s, known, links, lists)):
            joined.append(f"JOIN TABLE{t} AS{place} ON on_{s} {rest}")
    return f"({' | '.join(joined)})" if joined else ""


def _names(names: Iterable[str]) -> str:
    """A regular expression for the names as SQLite takes them, in any case, quoted or, if possible, plain."""
    found = []
    for name in names:
        found += [name] if is_plain(name) else []
        found.append(quote(name))
        found += [f"`{name}`"] if "`" not in name else []
    escaped = (re.escape(text).replace("\\\n", "\\n").replace("/", "\\/") for text in found)
    return _any_case(f"(?i:{'|'.join(escaped)})")


def _blanks(text: str) -> str:
    """Terminals with W and S written out."""
    blanks = {"W": r"[ \n\t]{1,4}", "S": r"[ \n\t]{0,4}"}
    return _any_case(re.sub(r"(?<![A-Za-z0-9_])[WS](?![A-Za-z0-9_:])", lambda found: blanks[found[0]], text))


def _any_case(text: str) -> str:
    """`(?i:...)` written out for ASCII alone, as in SQLite: for regular expressions an s is also the long one."""

    def written(found: re.Match[str]) -> str:
        return re.sub(r"(\\n)|([a-zA-Z])", lambda m: m[1] or f"[{m[2].lower()}{m[2].upper()}]", found[1])

    return re.sub(r"\(\?i:((?:\\.|[^\\()])*)\)", lambda found: f"({written(found)})", text, flags=re.DOTALL)
