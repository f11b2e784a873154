"""What the official evaluators do to SQL text before they run it."""

import re

# Literals, quoted names and comments are matched first, so that a keyword inside them is left alone. Possessive, and
# one that is not closed runs to the end: the text is a model's, and must be read in linear time.
_TOKEN = re.compile(
    r"""'(?:[^']|'')*+'? | "(?:[^"]|"")*+"? | `(?:[^`]|``)*+`? | \[[^\]]*+\]?
    | (?P<blank>(?: \s | --[^\n]*+ | /\*.*?(?:\*/|\Z) )++) | (?P<distinct>\bDISTINCT\b)""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_CURRENT_YEAR = re.compile(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)", re.IGNORECASE)


def mend(sql: str) -> str:
    """Spider's mending of predictions and golds: `> =` is `>=`, and `YEAR(CURDATE())` is 2020.

    >>> mend("SELECT a FROM t WHERE a > = YEAR(CURDATE())")
    'SELECT a FROM t WHERE a >= 2020'
    """
    for broken, whole in (("> =", ">="), ("< =", "<="), ("! =", "!=")):
        sql = sql.replace(broken, whole)
    return _CURRENT_YEAR.sub("2020", sql)


def remove_distinct(sql: str) -> str:
    """Drop every DISTINCT keyword, as Spider's evaluator does by default.

    >>> remove_distinct("SELECT count(DISTINCT a) FROM t WHERE b = 'distinct'")
    "SELECT count( a) FROM t WHERE b = 'distinct'"
    """
    if "distinct" not in sql.lower():
        return sql
    return _TOKEN.sub(lambda match: "" if match["distinct"] else match[0], sql)


def is_ordered(gold: str) -> bool:
    """Spider's rule: the order of rows matters if the gold contains "order by" anywhere, even in a subquery."""
    return "order by" in gold.lower()


def on_one_line(sql: str) -> str:
    """The same statement without line breaks and tabs, for the official text formats; comments are dropped.

    >>> on_one_line("SELECT a -- the name\\nFROM t")
    'SELECT a FROM t'
    """
    return _TOKEN.sub(_flattened, sql).strip()


def _flattened(token: re.Match[str]) -> str:
    if token["blank"]:
        return " "
    text = token[0]
    if text.startswith("'"):
        for code in (9, 10, 13):
            text = text.replace(chr(code), f"'||char({code})||'")
        return text
    return re.sub(r"[\t\r\n]", " ", text)  # a quoted name, or one that is never closed
