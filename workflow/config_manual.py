"""Write the tables of config/README.md from the schemas: `python workflow/config_manual.py`.

What stands between the markers ``<!-- NAME.schema.yaml -->`` and ``<!-- end -->`` is replaced.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CONFIG = Path(__file__).parents[1] / "config"


def manual(text: str, schemas: Path = CONFIG / "schemas") -> str:
    """`text` with the tables that the schemas give now."""

    def table(match: re.Match[str]) -> str:
        schema = yaml.safe_load((schemas / match[1]).read_text(encoding="utf-8"))
        lines = ["| key | default | meaning |", "| --- | --- | --- |", *_rows(schema)]
        return f"<!-- {match[1]} -->\n" + "\n".join(lines) + "\n<!-- end -->"

    return re.sub(r"<!-- (\S+\.schema\.yaml) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def _rows(schema: dict[str, Any], place: str = "", condition: str = "") -> Iterator[str]:
    required = schema.get("required", ())
    for name, key in schema.get("properties", {}).items():
        if condition.startswith(f"`{name}: "):  # the key of the choice has its row already
            continue
        default = (
            "*needed*" if name in required else f"`{json.dumps(key['default'])}`" if "default" in key else ""
        )
        text = " ".join(filter(None, (condition, key["description"], _choices(key)))).replace("|", "\\|")
        yield f"| `{place}{name}` | {default if default != '`{}`' else ''} | {text} |"
        yield from _rows(key, f"{place}{name}.")
    other = schema.get("additionalProperties")
    if isinstance(other, dict) and other not in schema.get("properties", {}).values():
        yield from _rows(other, f"{place}NAME.")
    for rule in schema.get("allOf", ()):
        for branch in (rule["then"], rule.get("else", {})):
            yield from _rows(branch, place, branch.get("title", ""))


def _choices(key: dict[str, Any]) -> str:
    choices = [f"`{choice}`" for choice in key.get("enum", ()) if choice is not None]
    told = len(choices) < 2 or all(choice in key["description"] for choice in choices)
    return "" if told else f"One of {', '.join(choices)}."


if __name__ == "__main__":
    readme = CONFIG / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = manual(old)
    readme.write_text(new, encoding="utf-8")
    sys.stdout.write(f"{readme} {'is up to date' if new == old else 'rewritten'}\n")
