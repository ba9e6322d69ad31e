"""What a dataset's file says of its media, read by the job that fetches them."""

from pathlib import Path
from typing import TypeVar

from avfusion.options import read_options
from avfusion.schema import read_yaml

Options = TypeVar("Options")


def media_options(config: str | Path, cls: type[Options]) -> Options:
    """The options under ``media`` of a dataset's file, a password perhaps among them, as a `cls`.

    The workflow has checked the file against its schema; `cls` has the same defaults.

    Raises:
        InputError: the file has been changed since, and no longer fits.
    """
    media = dict(read_yaml(config)["media"])
    media.pop("source")
    return read_options(cls, media, config, "media")
