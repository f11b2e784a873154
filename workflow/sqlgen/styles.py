"""The nine question styles of OmniSQL: how a wording becomes a question.

`vague` and `metaphorical` replace a threshold by a word, which the evidence explains as external knowledge.
"""

from sqlgen.english import Speaker
from sqlgen.wording import Wording

_IMPERATIVES = (
    "Show {}.", "List {}.", "Find {}.", "Give me {}.", "Return {}.", "Display {}.", "Give {}.", "Tell me {}.",
    "Show me {}.", "Please list {}.", "Please show {}.", "Report {}.", "Get {}.",
)  # fmt: skip
_FRAMES = {
    "formal": (
        "Please provide {}.", "Kindly retrieve {}.", "Could you please provide {}?", "You are requested to report {}.",
        "I would be grateful if you could list {}.", "Please determine {}.", "We require {}.", "Please identify {}.",
    ),
    "colloquial": (
        "Hey, can you tell me {}?", "Can you show me {}?", "I'd like to know {}.", "So, what about {}?",
        "I'm curious about {}.", "Can you pull up {}?", "Quick one: I need {}.", "Got a sec? I want {}.",
        "Could you grab {} for me?",
    ),
    "descriptive": (
        "I am looking for {}.", "I want to find out {}.", "I need to see {}.", "For a report, I need {}.",
        "We would like to have {}.", "My task is to find {}.", "The result should contain {}.",
        "What interests me is {}.",
    ),
}  # fmt: skip
_DIALOGUES = (
    ("User: I have a question about {topic}.", "Assistant: What would you like to know?", "User: {ask}"),
    ("User: Can you help me with some data on {topic}?", "Assistant: Of course. What do you need?", "User: {ask}"),
    ("User: I want to look something up.", "Assistant: Sure, what is it about?", "User: It is about {topic}. {ask}"),
    ("User: Hello, I am working with {topic}.", "Assistant: How can I help?", "User: {ask} Nothing else."),
)


def in_style(speaker: Speaker, style: str, wording: Wording, topic: str) -> str:
    """The question in a style, slots still marked. `topic` is the plural noun of what it is about, marked."""
    if style == "dialogue":
        lines = _DIALOGUES[speaker.rng.randrange(len(_DIALOGUES))]
        return " ".join(lines).format(topic=topic, ask=_capitalized(_imperative(speaker, wording)))
    if style == "concise":
        return _capitalized(wording.phrase.removeprefix("the ") + speaker.pick("", ".", "?"))
    if style in _FRAMES:
        return _capitalized(speaker.pick(*_FRAMES[style]).format(wording.phrase))
    if style == "imperative":
        return _capitalized(_imperative(speaker, wording))
    # The vague and metaphorical styles change how thresholds are said; the question itself is an interrogative one.
    return _capitalized(_interrogative(speaker, wording))


def _interrogative(speaker: Speaker, wording: Wording) -> str:
    if wording.direct and speaker.rng.random() < 0.6:
        return speaker.pick(*wording.direct)
    if not wording.phrase.startswith(("the ", "all ")):
        return speaker.pick("Can you list {}?", "Could you show {}?", "Can you give me {}?").format(wording.phrase)
    return f"What {'are' if wording.many else 'is'} {wording.phrase}?"


def _imperative(speaker: Speaker, wording: Wording) -> str:
    if wording.commands and speaker.rng.random() < 0.5:
        return speaker.pick(*wording.commands)
    return speaker.pick(*_IMPERATIVES).format(wording.phrase)


def _capitalized(text: str) -> str:
    """The text with its first letter in upper case, also when it opens a slot."""
    start = 1 if text[:1] == "\x01" else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]
