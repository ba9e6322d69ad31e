"""YAML files checked against a schema and completed with its defaults, with messages for the writer.

A schema is JSON Schema in YAML: the one place where a key, its default and its description stand. Of the
ways to combine schemas, ``allOf`` with ``if``/``then`` and ``$ref`` to ``#/$defs`` are understood.
"""

import json
import math
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from avfusion.errors import InputError, did_you_mean, known_names

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file; a key that stands twice in one mapping is an error, not a silent choice.

    Raises:
        InputError: no such file, no YAML, or a repeated key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=_LOADER)
        _refuse_repeated_keys(tree, path)
        return yaml.load(text, Loader=_LOADER)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else None
        raise InputError(path, f"is no valid YAML ({error.problem or error.context})", line) from error
    except yaml.YAMLError as error:
        raise InputError(path, f"is no valid YAML ({' '.join(str(error).split())})") from error


def complete(value: Any, schema: Mapping[str, Any], source: str | Path) -> Any:
    """Check `value` against `schema` and return a copy of it with every default filled in.

    Raises:
        InputError: what does not fit: file, key, and what would.
    """
    from jsonschema import Draft202012Validator

    if value is None and schema.get("type") == "object":  # a file without a single key
        value = {}
    copy = json.loads(json.dumps(value, default=str))
    _refuse_odd_keys(value, source)
    errors = sorted(Draft202012Validator(schema).iter_errors(copy), key=_urgency)
    if errors:
        field, problem = _explain(errors[0])
        raise InputError(source, problem, field or None)
    return _fill(copy, schema, schema)


def _fill(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """`value` with the defaults of `schema`, which it fits."""
    from jsonschema import Draft202012Validator

    if "$ref" in schema:
        return _fill(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if isinstance(value, list) and "items" in schema:
        return [_fill(item, schema["items"], root) for item in value]
    if not isinstance(value, dict):
        return value
    for condition in schema.get("allOf", ()):
        if "if" in condition:
            branch = "then" if Draft202012Validator(condition["if"]).is_valid(value) else "else"
            value = _fill(value, condition.get(branch, {}), root)
    properties: Mapping[str, Any] = schema.get("properties", {})
    other = schema.get("additionalProperties")
    for name, inner in properties.items():
        if name not in value and "default" in inner:
            value[name] = json.loads(json.dumps(inner["default"]))
    for name, item in value.items():
        if name in properties:
            value[name] = _fill(item, properties[name], root)
        elif isinstance(other, dict):
            value[name] = _fill({} if item is None else item, other, root)
    return value


def _urgency(error: Any) -> tuple[int, int, str]:
    """Misspelt keys first: they explain the missing keys that come with them."""
    order = {"additionalProperties": 0, "enum": 1, "const": 1, "type": 2}
    return order.get(error.validator, 3), len(error.absolute_path), str(list(error.absolute_path))


def _explain(error: Any) -> tuple[str, str]:
    """Where in the file an error of jsonschema is, and what it says in words for the writer of the file."""
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    field = field.removeprefix(".")
    value, limit = error.instance, error.validator_value
    shown = json.dumps(value) if not isinstance(value, str) else f"'{value}'"
    match error.validator:
        case "additionalProperties":
            known = error.schema.get("properties", {})
            name = next(key for key in value if key not in known)
            return field, f"unknown key '{name}'{known_names(name, known)}"
        case "required":
            name = next(key for key in limit if key not in value)
            return field, f"the key '{name}' is missing"
        case "enum" | "const":
            choices = [
                "null" if choice is None else str(choice) for choice in error.schema.get("enum", [limit])
            ]
            return (
                field,
                f"must be {' or '.join(choices)}, not {shown}{did_you_mean(str(value), choices)}",
            )
        case "type":
            return field, f"must be {_type_name(limit)}, not {shown}{_number_hint(value)}"
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            relation = (
                {"m": "at least", "e": "above"}
                if "inimum" in error.validator
                else {"m": "at most", "e": "below"}
            )
            return field, f"must be {relation[error.validator[0]]} {limit}, not {shown}"
        case "minItems" | "maxItems":
            return (
                field,
                f"must have {'at least' if error.validator == 'minItems' else 'at most'} {limit} entries",
            )
        case "uniqueItems":
            return field, f"names something twice: {shown}"
        case "pattern":
            return field, error.schema.get("x-pattern", f"must match {limit}") + f", not {shown}"
        case "propertyNames" | _:
            return field, error.message


def _type_name(types: str | Sequence[str]) -> str:
    names = {
        "object": "a mapping (key: value)",
        "array": "a list",
        "string": "a text",
        "number": "a number",
        "integer": "a whole number",
        "boolean": "true or false",
        "null": "null",
    }
    return " or ".join(names[name] for name in ([types] if isinstance(types, str) else types))


def _number_hint(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value):
        mantissa, exponent = re.split("[eE]", value)
        sign = "" if exponent[0] in "+-" else "+"
        return f" (YAML takes that for a text; write {mantissa}.0e{sign}{exponent})"
    return ""


def _refuse_repeated_keys(node: Any, path: str | Path) -> None:
    for mapping in _mappings(node):
        seen: set[Hashable] = set()
        for key, _ in mapping.value:
            if key.value in seen and key.value != "<<":
                line = f"line {key.start_mark.line + 1}"
                raise InputError(path, f"the key '{key.value}' stands here a second time", line)
            seen.add(key.value)


def _mappings(node: Any) -> Iterator[Any]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)


def _refuse_odd_keys(value: Any, source: str | Path, field: str = "") -> None:
    """JSON has text keys and finite numbers only; ``on:`` and ``0.5:`` are no text keys."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(source, f"the key {key!r} is no text; write it in quotes", field or None)
            _refuse_odd_keys(item, source, f"{field}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_odd_keys(item, source, f"{field}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(source, f"must be a finite number, not {value}", field or None)
