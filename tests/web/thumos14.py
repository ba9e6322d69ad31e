"""THUMOS14 as its web servers have it: archives, names, encryption and texts, from tables of annotations."""

from collections import defaultdict
from collections.abc import Mapping

from web.zips import plain_zip

from avfusion.data.tables import parse_csv, read_text

NAMES = {"val": "validation", "test": "test"}
Rows = list[tuple[str, str, str, str]]  # video, class, start, end


def table_rows(path: object) -> Rows:
    """Rows of a table ``*_Annotation.csv``, times as they are written."""
    wanted = {name: (name,) for name in ("video", "type", "start", "end")}
    table = parse_csv(path, read_text(path), wanted)  # type: ignore[arg-type]
    return list(zip(*(table.columns[name] for name in wanted), strict=True))


def annotation_zip(rows: Rows, subset: str) -> bytes:
    """The archive of a subset: a text file per class, the list of classes, and what macOS adds."""
    texts: dict[str, str] = defaultdict(str)
    for video, label, start, end in rows:
        texts[label] += f"{video}  {start} {end}\n"
    members = {f"annotation/{label}_{subset}.txt": text.encode() for label, text in sorted(texts.items())}
    members["readme.txt"] = b"THUMOS CHALLENGE 2014\n"
    members["annotation/detclasslist.txt"] = b"7 BaseballPitch\n9 BasketballDunk\n"
    members[f"__MACOSX/annotation/._Diving_{subset}.txt"] = bytes(range(200, 256))
    return plain_zip(members)


def video_members(videos: Mapping[str, bytes], subset: str) -> dict[str, bytes]:
    """Members of the archive of videos of a subset, many of which are not annotated."""
    folder = {"val": "validation", "test": "TH14_test_set_mp4"}[subset]
    others = {f"video_{NAMES[subset]}_{9990000 + k:07d}": bytes([k]) * 20_000 for k in range(5)}
    return {f"{folder}/{name}.mp4": content for name, content in sorted({**videos, **others}.items())}
