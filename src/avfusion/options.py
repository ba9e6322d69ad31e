"""Options from plain dictionaries (YAML, JSON) into dataclasses, checked as they are read.

The workflow's schemas check the files that people write; this checks what a function is called with, so
that a misspelt option is an error and no silent default there as well.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from avfusion.errors import InputError, known_names

Options = TypeVar("Options")
NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}


def read_options(
    cls: type[Options], given: Mapping[str, Any], source: str | Path, field: str = ""
) -> Options:
    """An instance of the dataclass `cls` with the values `given`, and its defaults for the rest.

    Fields may be bool, int, float, str, a Literal of these, a tuple of one type, a dict (not looked into), a
    further dataclass (given as a mapping), or one of those or None. What ``__post_init__`` refuses by
    ValueError is reported alike; its message begins with the name of the field.

    Args:
        cls: the dataclass.
        given: values by name of the field.
        source: file or argument that they come from, for messages.
        field: place of `given` in the source, for messages.

    Raises:
        InputError: unknown name, missing or wrong value.
    """
    if not isinstance(given, Mapping):
        raise InputError(source, f"must be a mapping (key: value), not {given!r}", field or None)
    hints = typing.get_type_hints(cls)
    known = {entry.name: entry for entry in fields(cls)}  # type: ignore[arg-type]
    prefix = f"{field}." if field else ""
    values = {}
    for name, value in given.items():
        if name not in known:
            raise InputError(source, f"unknown option '{name}'{known_names(name, known)}", field or None)
        values[name] = _convert(value, hints[name], source, prefix + name)
    for name, entry in known.items():
        if name not in values and entry.default is MISSING and entry.default_factory is MISSING:
            raise InputError(source, f"the option '{name}' is missing", field or None)
    try:
        return cls(**values)
    except ValueError as error:
        raise InputError(source, str(error), field or None) from error


def write_options(options: Any) -> dict[str, Any]:
    """The plain dictionary that `read_options` reads back into the same dataclass."""
    return asdict(options)


def require(condition: bool, name: str, problem: str) -> None:
    """For ``__post_init__``: refuse a value unless `condition` holds.

    Raises:
        ValueError: with a text that begins with the name of the field.
    """
    if not condition:
        raise ValueError(f"{name}: {problem}")


def _convert(value: Any, hint: Any, source: str | Path, field: str) -> Any:
    if is_dataclass(hint):
        return read_options(typing.cast(type, hint), value, source, field)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), source, field)
    if origin is typing.Literal:
        if value not in arguments:
            raise InputError(source, f"must be {' or '.join(map(str, arguments))}, not {value!r}", field)
        return value
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(source, f"must be a mapping (key: value), not {value!r}", field)
        return dict(value)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(source, f"must be a list, not {value!r}", field)
        return tuple(_convert(v, arguments[0], source, f"{field}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise InputError(source, f"must be {NAMES[hint]}, not {value!r}", field)
    return value
