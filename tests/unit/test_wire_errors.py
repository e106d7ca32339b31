"""Errors across the wire: the same class with the same fields arrives, and no frame can make anything worse of it."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import (
    NOTHING,
    CallerError,
    CursorError,
    EngineError,
    InvalidArgumentError,
    OutcomeUnknownError,
    OwnedError,
    RemoteError,
    StorageIOError,
    WrongExpectedSeqError,
)
from engine.server import frames
from engine.server.problems import _FIELDS, CODES, TEXT_CHARS_MAX, code_of, error_of, frame_of
from tests.unit.test_errors import ALL


def across(error: EngineError) -> EngineError:
    """What a client gets of an error."""
    frame = frames.decode_server(frames.encode(frame_of(error, "a")))
    assert isinstance(frame, frames.Error)
    return error_of(frame)


def told(code: str, /, *, written: str = "nothing", message: str = "m", **details: Any) -> EngineError:
    """What a client makes of a frame."""
    text = msgspec.json.encode(
        {"type": "error", "id": None, "code": code, "message": message, "written": written, "details": details}
    ).decode()
    frame = frames.decode_server(text)
    assert isinstance(frame, frames.Error)
    return error_of(frame)


def example(cls: type[EngineError]) -> EngineError:
    """An instance with a value of its type in every field."""
    return cls(**{name: 7 if int in kinds else f"a {name}" for name, kinds in _FIELDS[cls].items()})


def test_every_error_has_a_code_of_its_own() -> None:
    """Lower case, and the class it stands for."""
    assert set(CODES.values()) == set(ALL)
    assert all(code_of(cls) == code for code, cls in CODES.items())
    assert all(code.replace("_", "").isalpha() and code.islower() for code in CODES)
    assert CODES["wrong_expected_seq"] is WrongExpectedSeqError
    assert CODES["storage_io"] is StorageIOError
    assert CODES["engine"] is EngineError


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_survives_the_wire(cls: type[EngineError]) -> None:
    """Class, fields, message, and whether anything was written."""
    error = example(cls)
    found = across(error)
    assert type(found) is cls
    assert attrs.asdict(found) == attrs.asdict(error)
    assert (str(found), found.written) == (str(error), error.written)
    assert str(found.clone()) == str(error)


def test_a_field_that_may_be_null_survives() -> None:
    """An owner that could not be read."""
    found = across(OwnedError("open x", "it is owned", 0, None))
    assert isinstance(found, OwnedError)
    assert found.pid is None


def test_an_error_of_somebody_elses_arrives_as_the_nearest_one_that_is_known() -> None:
    """One with fields as its parent; one of a class that says nothing by itself keeps its words."""

    class MineError(InvalidArgumentError):
        """With its parent's fields."""

    @attrs.define(slots=False, eq=False, str=False)
    class OtherError(CallerError):
        """With words of its own."""

        secret: object

        def describe(self) -> str:
            return "something else"

    found = across(MineError("x", "y"))
    assert type(found) is InvalidArgumentError
    assert (found.argument, found.problem) == ("x", "y")
    other = across(OtherError(object()))
    assert str(other) == f"the server refused (caller): something else; {NOTHING}"


def test_an_unknown_code_keeps_what_the_server_said_and_whether_anything_was_written() -> None:
    """Each once."""
    found = told("flux", message=f"the flux is low; {NOTHING}", found=3)
    assert isinstance(found, RemoteError)
    assert str(found) == f"the server refused (flux): the flux is low; {NOTHING}"
    unknown = told("flux", written="unknown", message="the flux is low")
    assert isinstance(unknown, OutcomeUnknownError)
    assert unknown.written == "unknown"
    assert str(unknown).startswith("the server failed (flux): the flux is low; whether it was written is unknown")
    assert str(unknown).count("whether") == 1


@pytest.mark.parametrize("code", sorted(CODES))
def test_an_error_never_claims_less_than_its_frame(code: str) -> None:
    """Where the server does not know whether anything was written, neither does the client, whatever the code."""
    details = {name: 7 if int in kinds else "x" for name, kinds in _FIELDS[CODES[code]].items()}
    assert told(code, written="unknown", **details).written == "unknown"
    assert told(code, written="nothing", **details).written == "nothing"


@pytest.mark.parametrize(
    "details",
    [
        {},
        {"session_id": "s", "expected": 1},
        {"session_id": "s", "expected": "1", "found": 2},
        {"session_id": "s", "expected": True, "found": 2},
        {"session_id": "s", "expected": None, "found": 2},
        {"session_id": "s", "expected": 1.5, "found": 2},
        {"session_id": 5, "expected": 1, "found": 2},
        {"session_id": ["s"], "expected": 1, "found": 2},
        {"session_id": "s", "expected": {"a": [{}] * 50}, "found": 2},
        {"session_id": "s", "expected": 2**63, "found": 2},
    ],
)
def test_fields_that_are_missing_or_of_wrong_types_make_an_error_that_still_says_what_the_server_said(details: Any) -> None:
    """No error of this version has fields that its class does not promise."""
    found = told("wrong_expected_seq", message="it went wrong", **details)
    assert type(found) is RemoteError
    assert "it went wrong" in str(found)


def test_fields_that_this_version_does_not_know_are_left_alone() -> None:
    """Also ones that every object has."""
    found = error_of(
        frames.Error(
            id=None,
            code="cursor",
            message="m",
            written="nothing",
            details={
                "cursor": "c",
                "problem": "p",
                "later": [1],
                "written": "unknown",
                "__class__": "x",
                "__init__": 1,
                "args": [1],
                "describe": "x",
                "self": 1,
            },
        )
    )
    assert type(found) is CursorError
    assert (str(found), found.written) == (f"cursor 'c': p; {NOTHING}", "nothing")


def test_what_is_said_is_bounded_and_can_always_be_encoded() -> None:
    """A name of a file that is no text, a text as long as a frame."""
    found = across(StorageIOError("open /x/\udcff", "é" * 100_000))
    assert isinstance(found, StorageIOError)
    assert found.operation == "open /x/?"
    assert len(found.problem) == TEXT_CHARS_MAX
    assert len(str(told("flux", message="x" * 100_000))) < 2 * TEXT_CHARS_MAX


def test_a_field_of_a_type_that_no_frame_carries_is_left_out() -> None:
    """A number beyond what JSON readers take, an object: the message still says it."""
    for wrong in (2**70, object(), b"x", 1.5):
        error = WrongExpectedSeqError("s", wrong, 1)  # type: ignore[arg-type]
        assert frame_of(error, None).details == {"session_id": "s", "found": 1}
        assert type(across(error)) is RemoteError


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(sorted({name for fields in _FIELDS.values() for name in fields} | {"written", "args", "x"}))


@given(
    st.sampled_from([*CODES, "", "flux", "Engine", "__class__"]),
    st.text(),
    st.sampled_from(["nothing", "unknown"]),
    st.dictionaries(names, json_values, max_size=6),
)
def test_whatever_a_server_says_an_error_comes_of_it(code: str, message: str, written: Any, details: dict[str, Any]) -> None:
    """With the types of its class in its fields, with a message, and as unsure as the server was."""
    found = error_of(frames.Error(id=None, code=code, message=message, written=written, details=details))
    assert isinstance(found, EngineError)
    assert found.written == written
    assert str(found)
    assert str(found.clone()) == str(found)
    assert all(type(getattr(found, name)) in kinds for name, kinds in _FIELDS[type(found)].items())
