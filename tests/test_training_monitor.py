"""The collapse monitor on the courses that runs took (architecture notes: executable .37 -> .85, match still .11)."""

from sqlr1.training.monitor import collapse_signs

START = {"format": 0.9, "executable": 0.37, "match": 0.11, "characters": 96.0, "distinct": 0.98, "reward": -0.4}


def test_executable_but_wrong_is_told():
    signs = collapse_signs(START, START | {"executable": 0.85, "characters": 30.0, "reward": 0.1, "distinct": 0.3})
    assert signs == [
        "executable share 37 % -> 85 %, match share only 11 % -> 11 %",
        "completions shrank from 96 to 30 characters",
        "distinct answers 98 % -> 30 %",
        "mean reward -0.40 -> 0.10 all the same",
    ]


def test_a_real_gain_is_not():
    assert collapse_signs(START, START | {"executable": 0.6, "match": 0.18, "characters": 60.0, "reward": 1.0}) == []


def test_neither_is_standing_still():
    assert collapse_signs(START, START) == []
    assert collapse_signs(START, START | {"executable": 0.40, "reward": -0.3}) == []
