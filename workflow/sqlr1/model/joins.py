"""Which tables are joined in constrained answers, and which joins have rules of their own in the grammar."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlr1.database.schema import Schema

# llguidance takes 65,535 symbols. A scope has about 190: 100 of single tables, 120 of joins and 40 shared ones fit. The
# first masks of 200 scopes take half a second.
_MOST_SINGLE = 100
_MOST_PAIRS, _MOST_NAMED_PAIRS, _MOST_TRIPLES, _MOST_JOINS = 40, 20, 60, 120

# How two tables are linked, the best first: by a foreign key, by a shared column name, or not at all (nothing links one
# of them to any other, or it is one table twice).
_KEY, _NAME, _ALONE = range(3)


@dataclass(frozen=True)
class Scope:
    """Tables (by number) in the order of FROM, as T1, T2, ... if `aliased`."""

    tables: tuple[int, ...]
    aliased: bool

    def __str__(self) -> str:
        return ("t" if self.aliased else "n") + "_".join(map(str, self.tables))


class Links:
    """Which tables may be joined with which, and how they are linked; `alone` are those that nothing links."""

    def __init__(self, schema: Schema) -> None:
        number = {table.name: t for t, table in enumerate(schema.tables)}
        names = [{c.name.lower() for c in table.columns} for table in schema.tables]
        keys = [(number[key.table], number[key.parent], key.composite) for key in schema.foreign_keys]
        self.between = [{b: _NAME for b, others in enumerate(names) if own & others} for own in names]
        for a, b, _ in keys:
            self.between[a][b] = self.between[b][a] = _KEY
        # A table shares its names with itself.
        self.alone = {a for a, others in enumerate(self.between) if len(others) == 1}
        for a, others in enumerate(self.between):
            for b in range(len(names)) if a in self.alone else self.alone:
                others.setdefault(b, _ALONE)
            if others[a] == _NAME:
                others[a] = _ALONE  # few join a table with itself without a key
        count = Counter(frozenset((a, b)) for a, b, composite in keys if not composite)
        self._repeatable = {pair for pair, n in count.items() if n > 1 or len(pair) == 1}

    def after(self, join: Sequence[int]) -> dict[int, int]:
        """The tables that may be joined next, and how they are linked.

        From the third on no table comes again, unless two keys link it (a flight has two airports) or one to itself.
        The keys of several columns count for nothing here: a schema does not tell them apart.
        """
        found: dict[int, int] = {}
        for a in join:
            for b, how in self.between[a].items():
                times = join.count(b)
                if not times or len(join) == 1 or (times == 1 and frozenset((a, b)) in self._repeatable):
                    found[b] = min(how, found.get(b, how))
        return found

    def joins(self) -> list[list[tuple[int, ...]]]:
        """The joins of two, three and four tables that may have scopes. Those whose worst link is best come first."""
        grown: list[tuple[int, tuple[int, ...]]] = [(_KEY, (a,)) for a in range(len(self.between))]
        joins: list[list[tuple[int, ...]]] = []
        for most in (_MOST_PAIRS, _MOST_TRIPLES, _MOST_JOINS):
            longer = ((max(worst, how), (*join, b)) for worst, join in grown for b, how in self.after(join).items())
            grown = sorted(longer, key=lambda found: found[0])[:most]
            joins.append([join for _, join in grown])
        return joins


def scopes_of(links: Links) -> list[Scope]:
    """The scopes with rules of their own, the most useful first."""
    single = [Scope((t,), aliased) for aliased in (False, True) for t in range(len(links.between))]
    pairs, triples, longest = links.joins()
    joins = [Scope(join, True) for join in [*pairs, *triples]]
    joins += [Scope(pair, False) for pair in pairs if pair[0] != pair[1]][:_MOST_NAMED_PAIRS]
    joins += [Scope(join, True) for join in longest]
    return single[:_MOST_SINGLE] + joins[:_MOST_JOINS]
