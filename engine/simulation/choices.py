"""What a schedule decides: operations with stable addresses, the steps that were taken, what may be done to them.

Owns: `Op`, `Address`, `Step`, `Ready`, `Disturbance`, and how each is written. Must not know: trio, who decides.
Invariants: an address names an operation by its actor, its label and which occurrence of that label it is, never by a
global index, so that it survives edits elsewhere; a written address can be read back.
"""

from __future__ import annotations

import re
from typing import Any, Final

import attrs

from engine.simulation.errors import ScheduleSyntaxError

KINDS: Final = ("timeout", "cancel", "cut", "fault", "crash", "lose", "net")
"""What can be done to an operation beside ordering it: see `Disturbance`."""

_VALUES: Final = {
    "timeout": re.compile("1"),
    "cancel": re.compile("1"),
    "lose": re.compile("1"),
    "cut": re.compile("[1-9][0-9]{0,5}"),
    "fault": re.compile("[a-z]+"),
    "net": re.compile("lost/([0-9]{1,9}|all)|delay/[1-9][0-9]{0,8}|split/[1-9][0-9]{0,8}"),
    "crash": re.compile("1|process|power(/[0-9]{1,3})?"),
}
"""What each kind may be followed by; `1` stands for nothing."""

_FORBIDDEN: Final = re.compile(r"[^A-Za-z0-9_.,:()/~ -]")
_ADDRESS: Final = re.compile(r"\s*(?P<actor>[^#@>;=\[\]]+)#(?P<label>[^#@>;=\[\]]+)(?:\[(?P<nth>0*[1-9][0-9]{0,8})\])?\s*")


def clean_label(text: str) -> str:
    """Text that can stand in an address: what has a meaning in schedule strings becomes an underscore."""
    return _FORBIDDEN.sub("_", text.strip())[:60].strip() or "_"


@attrs.frozen
class Address:
    """One operation of a run: the nth one with this label that this actor is about to do."""

    actor: str
    label: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.actor}#{self.label}" + (f"[{self.nth}]" if self.nth != 1 else "")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `actor#label` or `actor#label[nth]`. Raises `ScheduleSyntaxError`."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise ScheduleSyntaxError(text, "expected actor#label or actor#label[n]")
        return cls(found["actor"].strip(), found["label"].strip(), int(found["nth"] or 1))


@attrs.frozen
class Op:
    """What an actor is about to do: a label, and the keys it reads and writes (its conflict keys)."""

    label: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    silent: bool = False
    """A wake-up or start that nobody named: it is scheduled like the others, but no ordering is asked for it."""
    wire: bool = False
    """It concerns a connection: a `net` can happen to it."""

    def conflicts_with(self, other: Op) -> bool:
        """Whether the order of the two can matter: they share a key and one writes it."""
        for key in self.writes:
            if key in other.writes or key in other.reads:
                return True
        return any(key in other.writes for key in self.reads)


@attrs.frozen
class Step:
    """One decision that was taken: who ran, from which operation on."""

    actor: str
    label: str
    nth: int
    op: Op
    ready: int
    """How many could have run."""

    @property
    def address(self) -> Address:
        """Where it can be ordered or disturbed."""
        return Address(self.actor, self.label, self.nth)

    def __str__(self) -> str:
        return str(self.address)


@attrs.frozen
class Disturbance:
    """What is done to an operation when it is about to run.

    `timeout`: the clock jumps to the next deadline first. `cancel`: its actor's scope is cancelled.
    `lose`: the answer that the actor is about to see is lost to it (it is cancelled at that very point). `cut`: the
    writer's batch ends after `value` commands. `fault`: the disk answers the operation with the error `value`.
    `crash`: the process dies there; `value` says how (`process`, `power`, `power/3` ...). `net`: at an operation of a
    connection, `lost/n` breaks it after n bytes have arrived (`lost/all`: all), `delay/ms` holds bytes up, `split/n` lets n
    of them be read alone; see `engine.simulation.network`.
    """

    kind: str
    at: Address
    value: str = "1"

    def __str__(self) -> str:
        return f"{self.kind}@{self.at}" + (f"={self.value}" if self.value != "1" else "")

    @classmethod
    def parse(cls, text: str) -> Disturbance:
        """Read `kind@actor#label[nth]=value`. Raises `ScheduleSyntaxError`."""
        kind, _, rest = text.partition("@")
        where, _, value = rest.partition("=")
        kind, value = kind.strip(), value.strip() or "1"
        if kind not in KINDS:
            raise ScheduleSyntaxError(text, f"expected one of {', '.join(KINDS)} before the @, found {kind!r}")
        if _VALUES[kind].fullmatch(value) is None:
            raise ScheduleSyntaxError(text, f"{value!r} is nothing that a {kind} can be")
        return cls(kind, Address.parse(where), value)


def describe_item(item: Any) -> str:
    """A short label for something that is sent: its own `sim_label`, its text, or its type and first text field."""
    own = getattr(item, "sim_label", None)
    if isinstance(own, str):
        return own
    if isinstance(item, str | int):
        return str(item)
    if isinstance(item, tuple):
        return ",".join([describe_item(part) for part in item[:3]])
    name = type(item).__name__
    fields = getattr(type(item), "__attrs_attrs__", None)
    if fields:
        for field in fields:
            value = getattr(item, field.name, None)
            if isinstance(value, str):
                return f"{name}({value})"
    return name


def keys_of(item: Any) -> tuple[str, ...] | None:
    """The conflict keys that a sent item declares by an attribute `conflict_keys`, or None."""
    keys = getattr(item, "conflict_keys", None)
    return tuple(keys) if isinstance(keys, tuple | list | set | frozenset) else None
