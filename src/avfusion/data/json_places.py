"""On which line of a JSON text every object and list begins, and which keys stand there twice.

`json` forgets both: it gives no positions, and the last of two equal keys wins silently. A person who has to
mend a file of annotations needs them. The text must be valid JSON; that has been checked before.
"""

import json
import re
from dataclasses import dataclass, field

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|\n|[^\s{}\[\],:"]+')


@dataclass
class Places:
    """Lines (from 1) by place, such as ``database.video_1.annotations[0]``; repeated keys with their line."""

    lines: dict[str, int] = field(default_factory=dict)
    repeated: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class _Open:
    """An object or a list that has not ended yet."""

    is_object: bool
    place: str
    key: str | None = None
    index: int = 0
    keys: set[str] = field(default_factory=set)

    def inner(self) -> str:
        """Place of the value that comes next."""
        if self.is_object:
            return f"{self.place}.{self.key}" if self.place else str(self.key)
        return f"{self.place}[{self.index}]"


def places(text: str) -> Places:
    """Find them; the text is valid JSON."""
    found, line = Places(), 1
    around: list[_Open] = []
    for match in TOKEN.finditer(text):
        token = match[0]
        if token == "\n":
            line += 1
        elif token in "{[":
            place = around[-1].inner() if around else ""
            found.lines[place] = line
            around.append(_Open(token == "{", place))
        elif token in "}]":
            around.pop()
        elif token == ",":
            around[-1].key = None
            around[-1].index += 1
        elif token != ":" and around and around[-1].is_object and around[-1].key is None:
            inside = around[-1]
            inside.key = str(json.loads(token))
            if inside.key in inside.keys:
                found.repeated.append((inside.inner(), line))
            inside.keys.add(inside.key)
    return found
