"""Errors written for the person who reads them: one line, naming file and field and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class AvfusionError(Exception):
    """Anything the user can mend. The command line prints its text as one line and exits with 1."""


class InputError(AvfusionError, ValueError):
    """A file or an option holds something that cannot be used.

    Args:
        source: file (or command line option) that holds the bad value.
        problem: what is wrong, and what to do about it, without a final full stop.
        field: place inside the file, such as ``database.video_1.annotations[0].segment`` or ``line 7``.
    """

    def __init__(self, source: str | Path, problem: str, field: str | None = None) -> None:
        self.source, self.field, self.problem = str(source), field, problem
        super().__init__(f"{source}: {field}: {problem}" if field else f"{source}: {problem}")


class MediaError(AvfusionError):
    """A media file (or one stream of it) cannot be used; the text is the reason a manifest row carries."""


class MissingWeightsError(AvfusionError):
    """A backbone was asked for without weights; the text says where they come from."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """``; did you mean '...'?`` if one of `choices` is close to `name`, else nothing."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = get_close_matches(name.lower().strip(), by_lower, n=1)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


def known_names(name: str, choices: Iterable[str]) -> str:
    """What to write instead of `name`: the closest of `choices`, or all of them."""
    choices = list(choices)
    return did_you_mean(name, choices) or (f"; known: {', '.join(choices)}" if choices else "")
