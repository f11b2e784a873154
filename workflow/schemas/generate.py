"""Write config.schema.json (for editors) and docs/configuration.md from `sqlr1/config.py`: `make schema`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlr1.config import Config

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow/schemas/config.schema.json"
REFERENCE = ROOT / "docs/configuration.md"
_HEADER = """# Configuration

Generated from `workflow/sqlr1/config.py` by `make schema`: do not edit.

`config.yaml` is the default experiment. An overlay (`--configfile FILE ...`) names only what differs, and several are
merged in their order. Keys that no file names have the defaults below. Numbers need a dot in YAML: 1.0e-4, not 1e-4.
"""


def schema() -> dict[str, Any]:
    """The JSON schema. No key is required in it: it also describes overlays."""
    return _without_required(Config.model_json_schema())


def _without_required(value: Any) -> Any:
    """Without the lists of required keys and the titles, which repeat names; a key may be called so itself."""
    if isinstance(value, dict):
        aside = {"required": list, "title": str}
        return {k: _without_required(v) for k, v in value.items() if not isinstance(v, aside.get(k, ()))}
    return [_without_required(item) for item in value] if isinstance(value, list) else value


def reference() -> str:
    """The reference page: a table per section."""
    full = Config.model_json_schema()
    parts = [_HEADER]
    for name, title, section in _sections(full, full, ""):
        rows = [_row(key, spec, full, section) for key, spec in section["properties"].items()]
        head = f"## `{name}`\n\n" if name else ""
        table = "\n".join(["| key | values | default | |", "|---|---|---|---|", *rows])
        parts.append(f"{head}{title}\n\n{table}\n")
    return "\n".join(parts)


def _sections(section: dict, full: dict, path: str) -> Iterator[tuple[str, str, dict]]:
    yield path, " ".join(section.get("description", "").split("\n\n")[0].split()), section
    for key, spec in section.get("properties", {}).items():
        for below in _referred(spec):
            name = f"{path}.{key}" if path else key
            shown = f"{name}.NAME" if key == "benchmarks" else f"{name}[]" if spec.get("type") == "array" else name
            yield from _sections(full["$defs"][below], full, shown)


def _referred(spec: Any) -> Iterator[str]:
    """Names of the sections that a key's value holds."""
    if isinstance(spec, dict):
        if "$ref" in spec:
            yield spec["$ref"].rsplit("/", 1)[1]
        for name in ("allOf", "anyOf", "items", "additionalProperties"):
            yield from _referred(spec.get(name))
        yield from _referred(list(spec.get("patternProperties", {}).values()))
    elif isinstance(spec, list):
        for item in spec:
            yield from _referred(item)


def _row(key: str, spec: dict, full: dict, section: dict) -> str:
    names = list(_referred(spec))
    default = "required" if key in section.get("required", ()) else "" if names else f"`{json.dumps(spec['default'])}`"
    described = spec.get("description") or (full["$defs"][names[0]].get("description", "") if names else "")
    text = " ".join(described.split()).replace("|", "\\|").replace("<", "&lt;")
    return f"| `{key}` | {_values(spec, full)} | {default.replace('|', '/')} | {text} |"


def _values(spec: dict, full: dict) -> str:
    """`integer, at least 1`, `spider or bird`, `null or mapping`."""
    if "anyOf" in spec:
        return " or ".join(dict.fromkeys(_values(part, full) for part in spec["anyOf"]))
    if "$ref" in spec or "allOf" in spec:
        return "mapping"
    if "enum" in spec or "const" in spec:
        return " or ".join(f"`{value}`" for value in spec.get("enum", [spec.get("const")]))
    kind = {"array": "list", "object": "mapping"}.get(spec.get("type", "any"), spec.get("type", "any"))
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    bounds = [f"{word} {spec[name]:g}" for name, word in words.items() if name in spec]
    inner = spec.get("items") or spec.get("additionalProperties")
    of = f" of {_values(inner, full)}" if isinstance(inner, dict) and kind in ("list", "mapping") else ""
    return ", ".join([kind + of, *bounds])


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    REFERENCE.write_text(reference(), encoding="utf-8")
