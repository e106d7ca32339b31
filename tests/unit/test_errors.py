"""Errors: one root, one line, what was written, and a clone that carries no past."""

from __future__ import annotations

import inspect

import attrs
import pytest

from engine import errors
from engine.errors import (
    NOTHING,
    UNANSWERED,
    UNKNOWN,
    ConnectionLostError,
    EngineError,
    OutcomeUnknownError,
    WrongExpectedSeqError,
)

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, EngineError)]


def example(cls: type[EngineError]) -> EngineError:
    """An instance with made-up fields."""
    return cls(**{field.name: "x" for field in attrs.fields(cls) if field.default is attrs.NOTHING})


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_says_on_one_line_whether_anything_was_written(cls):
    """The effect is the last part of the message."""
    text = str(example(cls))
    assert "\n" not in text
    assert text.endswith({OutcomeUnknownError: UNKNOWN, ConnectionLostError: UNANSWERED}.get(cls, NOTHING))
    assert cls.__doc__


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_a_clone_says_the_same_and_carries_no_past(cls):
    """A clone has the fields and the message, and neither traceback, cause nor context."""
    original = example(cls)
    try:
        raise original from KeyError("cause")
    except EngineError:
        clone = original.clone()
    assert type(clone) is cls
    assert str(clone) == str(original)
    assert (clone.__traceback__, clone.__cause__, clone.__context__) == (None, None, None)


def test_the_message_names_operation_subject_expected_and_found():
    """The example of the house style, whole."""
    assert str(WrongExpectedSeqError("s-1", 3, 5)) == "append to 's-1': expected seq 3, found 5; nothing was written"
