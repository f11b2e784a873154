"""Regular expressions for the pieces of SQL. They read any text in linear time, because a model may have written it:
quantifiers are possessive, and what is quoted and never closed runs to the end.
"""

import re

FLAGS = re.IGNORECASE | re.DOTALL | re.VERBOSE
QUOTED = r"""'(?:[^']|'')*+'? | "(?:[^"]|"")*+"? | `(?:[^`]|``)*+`? | \[[^\]]*+\]?"""
COMMENT = r"--[^\n]*+ | /\*.*?(?:\*/|\Z)"
# Literals, quoted names, comments, line ends, words (T1.name is one) and marks; other blanks are skipped.
TOKEN = re.compile(rf"{QUOTED} | {COMMENT} | \n | [\w.$]+ | \|\| | \S", FLAGS)
