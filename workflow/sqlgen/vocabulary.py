"""Values with a meaning for populated databases: Faker's, and patterns over the words of vocabulary.yaml."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import yaml
from faker import Faker

from sqlr1.records import InputError

_WORDS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
CITIES: list[str] = _WORDS["cities"]

_FAKED: dict[str, Callable[[Faker, str], str]] = {
    "name": lambda faker, _: f"{faker.first_name()} {faker.last_name()}",
    "email": lambda faker, _: faker.ascii_safe_email(),
    "company": lambda faker, _: faker.company(),
    "phone": lambda faker, _: faker.numerify("0## #######"),
    "plate": lambda faker, _: faker.bothify("??-### ?").upper(),
    "eatery": lambda faker, _: (
        f"{faker.random_element(['Chez', 'Casa', 'Cafe', 'The Old', 'Little'])} {faker.last_name()}"
    ),
    # Characters as in `bothify`: X is a letter, # a digit.
    "code": lambda faker, pattern: faker.bothify(pattern.replace("X", "?")).upper(),
}


def draw(kind: str, arguments: str, rng: random.Random, faker: Faker) -> str:
    """A value of a kind: one of Faker's above or one of vocabulary.yaml's patterns. Raises InputError for another."""
    if kind in _FAKED:
        return _FAKED[kind](faker, arguments)
    if kind not in _WORDS["patterns"]:
        raise InputError(f"unknown kind of column {kind!r} in a domain file")
    pattern = rng.choice(_WORDS["patterns"][kind])
    return re.sub(r"\{(\w+)\}", lambda match: rng.choice(_WORDS[match[1]]), pattern)
