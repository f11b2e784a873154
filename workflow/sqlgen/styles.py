"""The nine question styles of OmniSQL: how a wording becomes a question.

`vague` and `metaphorical` replace a threshold by a word, which the evidence explains as external knowledge.
"""

from sqlgen.english import Speaker
from sqlgen.naming import WORDS
from sqlgen.wording import Wording

_FRAMES = WORDS["frames"]


def in_style(speaker: Speaker, style: str, wording: Wording, topic: str) -> str:
    """The question in a style, slots still marked. `topic` is the plural noun of what it is about, marked."""
    if style == "dialogue":
        dialogue = speaker.pick(*WORDS["dialogues"])
        return dialogue.format(topic=topic, ask=_capitalized(_imperative(speaker, wording)))
    if style == "concise":
        return _capitalized(_framed(speaker, style, wording.phrase.removeprefix("the ")))
    if style in ("formal", "colloquial", "descriptive"):
        return _capitalized(_framed(speaker, style, wording.phrase))
    if style == "imperative":
        return _capitalized(_imperative(speaker, wording))
    # The vague and metaphorical styles change how thresholds are said; the question itself is an interrogative one.
    return _capitalized(_interrogative(speaker, wording))


def _interrogative(speaker: Speaker, wording: Wording) -> str:
    if wording.direct and speaker.rng.random() < 0.6:
        return speaker.pick(*wording.direct)
    if not wording.phrase.startswith(("the ", "all ")):
        return _framed(speaker, "interrogative", wording.phrase)
    return f"What {'are' if wording.many else 'is'} {wording.phrase}?"


def _imperative(speaker: Speaker, wording: Wording) -> str:
    if wording.commands and speaker.rng.random() < 0.5:
        return speaker.pick(*wording.commands)
    return _framed(speaker, "imperative", wording.phrase)


def _framed(speaker: Speaker, style: str, phrase: str) -> str:
    return speaker.pick(*_FRAMES[style]).format(phrase)


def _capitalized(text: str) -> str:
    """The text with its first letter in upper case, also when it opens a slot."""
    start = 1 if text[:1] == "\x01" else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]
