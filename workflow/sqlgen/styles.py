"""The nine question styles of OmniSQL: how a request is put into words.

`vague` and `metaphorical` hide a threshold behind a word and explain it in the evidence, as external knowledge.
"""

from sqlgen.english import Speaker, surface
from sqlgen.requests import Request
from sqlr1.records import STYLES

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


def put(speaker: Speaker, style: str, request: Request, topic: str) -> str:
    """The question in a style; slots stay marked. `topic` is the plural noun of what it is about, marked."""
    phrase = request.phrase
    if style == "dialogue":
        lines = _DIALOGUES[speaker.rng.randrange(len(_DIALOGUES))]
        return " ".join(lines).format(topic=topic, ask=capital(_imperative(speaker, request)))
    if style == "concise":
        text = phrase.removeprefix("the ") + speaker.pick("", ".", "?")
    elif style in _FRAMES:
        text = speaker.pick(*_FRAMES[style]).format(phrase)
    elif style == "imperative":
        text = _imperative(speaker, request)
    else:  # interrogative; vague and metaphorical change the wording of thresholds, not the frame
        text = _interrogative(speaker, request)
    return capital(text)


def _interrogative(speaker: Speaker, request: Request) -> str:
    if request.direct and speaker.rng.random() < 0.6:
        return speaker.pick(*request.direct)
    if not request.phrase.startswith(("the ", "all ")):
        return speaker.pick("Can you list {}?", "Could you show {}?", "Can you give me {}?").format(request.phrase)
    return f"What {'are' if request.many else 'is'} {request.phrase}?"


def _imperative(speaker: Speaker, request: Request) -> str:
    if request.commands and speaker.rng.random() < 0.5:
        return speaker.pick(*request.commands)
    return speaker.pick(*_IMPERATIVES).format(request.phrase)


def capital(text: str) -> str:
    """The text with its first letter in upper case, also when it opens a slot."""
    start = 1 if text[:1] == "\x01" else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]


__all__ = ["STYLES", "capital", "put", "surface"]
