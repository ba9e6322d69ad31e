"""Options from dictionaries, and what is said when they do not fit."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from avfusion.errors import InputError
from avfusion.options import read_options, require, write_options


@dataclass(frozen=True)
class Inner:
    share: float = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, "share", f"must be in [0, 1], not {self.share}")


@dataclass(frozen=True)
class Outer:
    count: int
    kind: Literal["a", "b"] = "a"
    widths: tuple[int, ...] = (1, 2)
    limit: float | None = None
    flag: bool = False
    free: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


def test_values_of_every_type_and_back_again() -> None:
    given = {"count": 3, "kind": "b", "widths": [4], "limit": 2, "flag": True, "free": {"x": 1}}
    options = read_options(Outer, {**given, "inner": {"share": 1}}, "test")
    assert options == Outer(3, "b", (4,), 2.0, True, {"x": 1}, Inner(1.0))
    assert isinstance(options.limit, float)
    assert read_options(Outer, write_options(options), "test") == options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 1, "knid": "a"}, "file.yaml: unknown option 'knid'"),
        ({}, "file.yaml: the option 'count' is missing"),
        ({"count": 1.5}, "file.yaml: count: must be a whole number, not 1.5"),
        ({"count": True}, "file.yaml: count: must be a whole number, not True"),
        ({"count": 1, "flag": 1}, "file.yaml: flag: must be true or false, not 1"),
        ({"count": 1, "kind": "c"}, "file.yaml: kind: must be a or b, not 'c'"),
        ({"count": 1, "widths": 3}, "file.yaml: widths: must be a list, not 3"),
        ({"count": 1, "widths": [3, "x"]}, "file.yaml: widths[1]: must be a whole number, not 'x'"),
        ({"count": 1, "limit": "x"}, "file.yaml: limit: must be a number, not 'x'"),
        ({"count": 1, "free": 3}, "file.yaml: free: must be a mapping (key: value), not 3"),
        (
            {"count": 1, "inner": {"shere": 1}},
            "file.yaml: inner: unknown option 'shere'",
        ),
        ({"count": 1, "inner": {"share": 2}}, "file.yaml: inner: share: must be in [0, 1], not 2.0"),
        ([], "file.yaml: must be a mapping (key: value), not []"),
    ],
)
def test_what_does_not_fit_is_named(given: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_options(Outer, given, "file.yaml")
    assert str(caught.value).startswith(message)


def test_a_close_name_is_proposed() -> None:
    with pytest.raises(InputError, match="did you mean 'kind'"):
        read_options(Outer, {"count": 1, "knid": "a"}, "file.yaml")
