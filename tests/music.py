"""A database of singers, and rows over it."""

import sqlite3

from sqlr1.records import Question

DDL = """
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, country TEXT, age INTEGER, prize TEXT);
INSERT INTO singer VALUES (1,'Ann','France',30,NULL), (2,'Bo','France',30,NULL), (3,'Cy','Spain',50,NULL);
CREATE VIEW french AS SELECT * FROM singer WHERE country = 'France';
"""


def row(sql, question="What?", number=0, **fields):
    values = {"id": f"music-{number}", "db_id": "music", "question": question, "sql": sql, "sql_class": "Simple"}
    return Question(**values | {"style": "imperative", "template": "single: _"} | fields)


GOOD = row("SELECT name FROM singer WHERE country = 'Spain' OR age = 30", "Singers from Spain or of age 30", 99)
FAILING = row("SELECT colour FROM singer")


def write_database(path):
    with sqlite3.connect(path) as connection:
        connection.executescript(DDL)
    connection.close()
    return path
