"""Names of streams: what is seen (``rgb``, ``flow``) and what is heard (``audio``, ``audio_fine``, ...)."""

VISUAL = ("rgb", "flow")
SOUND = "audio"


def is_sound(stream: str) -> bool:
    """Whether a stream is sound: ``audio``, or ``audio_...`` for the same sound on other snippets."""
    return stream == SOUND or stream.startswith(f"{SOUND}_")
