"""Schedules as strings: what to hold until when, what to disturb, or which strategy's nth run to repeat.

Owns: the three forms and their reading and writing. Must not know: how a schedule is carried out.

- Constraint form, printed by reports and writable by hand: `c1:turn#late part>user#remove m; cancel@turn#send[2]`. Terms are
  separated by `;`. `A>B` holds A's actor before A until B has been done, and `A>>B` also prefers B's actor meanwhile.
  `kind@A=value` disturbs A when it is about to run (see `Disturbance`). `mode=await` makes every await a decision.
  Everything else runs in the default order: the actor that ran goes on while it can, else who has been ready the longest.
- Seed form: `s1.<strategy>.<seed in base 36>.<run>` (`.await` behind it for that mode): the shortest; bound to the code's
  version, because a strategy's choices depend on what there is to choose from.
- Trace form: `t1.<base64>`: who ran how many steps, run-length coded with a dictionary of actors, and the disturbances.

Invariants: `parse(str(schedule)) == schedule`; the empty string is the default order.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from typing import Final, Literal

import attrs

from engine.simulation.choices import Address, Disturbance
from engine.simulation.errors import ScheduleSyntaxError

Mode = Literal["macro", "await"]

TRACE_BYTES_MAX: Final = 10_000_000
"""Bytes of an unpacked trace."""
DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_SEED_FORM: Final = re.compile(r"s1\.([a-z0-9_]+)\.([0-9a-z]{1,200})\.([0-9]{1,9})(\.await)?")


@attrs.frozen
class Hold:
    """Keep an actor before one of its operations until another one has been done."""

    held: Address
    until: Address
    eager: bool = False
    """Whether the awaited actor runs whenever it can meanwhile; written `A>>B`."""

    def __str__(self) -> str:
        return f"{self.held}{'>>' if self.eager else '>'}{self.until}"

    @property
    def flipped(self) -> Hold:
        """The opposite order."""
        return Hold(self.until, self.held, self.eager)


@attrs.frozen
class Seeded:
    """The nth run of a strategy with a seed."""

    strategy: str
    seed: int
    run: int


@attrs.frozen
class Schedule:
    """What to do differently from the default order."""

    holds: tuple[Hold, ...] = ()
    disturbances: tuple[Disturbance, ...] = ()
    segments: tuple[tuple[str, int], ...] | None = None
    """(actor, steps) in order, for the trace form."""
    seeded: Seeded | None = None
    mode: Mode | None = None
    """The mode it was found in; None for the caller's."""
    fingerprint: str = ""
    """Trace form: the start of the digest of the run it was taken from, to say whether a replay was exact."""

    def __str__(self) -> str:
        if self.seeded is not None:
            seeded = self.seeded
            tail = ".await" if self.mode == "await" else ""
            return f"s1.{seeded.strategy}.{in_base_36(seeded.seed)}.{seeded.run}{tail}"
        if self.segments is not None:
            return "t1." + _pack(self)
        terms = [str(hold) for hold in self.holds] + [str(item) for item in self.disturbances]
        if self.mode is not None:
            terms.append(f"mode={self.mode}")
        return "c1:" + "; ".join(terms) if terms else ""

    @property
    def size(self) -> int:
        """How many orderings and disturbances it asks for."""
        return len(self.holds) + len(self.disturbances)


def order(first: str, *, before: str) -> Hold:
    """The ordering "`first` is done before `before` begins": `order("user#remove m", before="turn#part m")`.

    For a `Schedule(holds=(...,))` written by hand. Raises `ScheduleSyntaxError`.
    """
    return Hold(Address.parse(before), Address.parse(first))


def parse(text: str) -> Schedule:
    """Read a schedule string in any of the three forms. Raises `ScheduleSyntaxError`."""
    text = text.strip()
    if not text:
        return Schedule()
    if text.startswith("c1:"):
        return _parse_terms(text)
    if text.startswith("t1."):
        return _unpack(text)
    found = _SEED_FORM.fullmatch(text)
    if found is not None:
        mode: Mode | None = "await" if found[4] else None
        return Schedule(seeded=Seeded(found[1], int(found[2], 36), int(found[3])), mode=mode)
    raise ScheduleSyntaxError(text, "expected c1:..., s1.strategy.seed.run or t1....")


def _parse_terms(text: str) -> Schedule:
    holds: list[Hold] = []
    disturbances: list[Disturbance] = []
    mode: Mode | None = None
    for term in text[3:].split(";"):
        term = term.strip()
        if not term:
            continue
        if term in ("mode=await", "mode=macro"):
            if mode is not None:
                raise ScheduleSyntaxError(text, "expected one mode, found two")
            mode = "await" if term == "mode=await" else "macro"
        elif ">" in term:
            held, _, until = term.partition(">")
            holds.append(Hold(Address.parse(held), Address.parse(until.removeprefix(">")), until.startswith(">")))
        elif "@" in term:
            disturbances.append(Disturbance.parse(term))
        else:
            raise ScheduleSyntaxError(text, f"expected A>B or kind@A=value, found {term!r}")
    return Schedule(tuple(holds), tuple(disturbances), mode=mode)


def _pack(schedule: Schedule) -> str:
    names: dict[str, int] = {}
    flat: list[int] = []
    for actor, steps in schedule.segments or ():
        flat += (names.setdefault(actor, len(names)), steps)
    content = [list(names), flat, [str(item) for item in schedule.disturbances], schedule.mode, schedule.fingerprint]
    return (
        base64.urlsafe_b64encode(zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 9)).decode().rstrip("=")
    )


def _unpack(text: str) -> Schedule:
    packed = text[3:]
    try:
        unpacking = zlib.decompressobj()
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4), b"-_", validate=True)
        content = unpacking.decompress(raw, TRACE_BYTES_MAX)
        names, flat, disturbances, mode, fingerprint = json.loads(content)
        well_formed = (
            unpacking.eof
            and not unpacking.unused_data
            and _all(names, str)
            and _all(flat, int)
            and _all(disturbances, str)
            and mode in (None, "macro", "await")
            and isinstance(fingerprint, str)
            and all(0 <= flat[i] < len(names) and flat[i + 1] > 0 for i in range(0, len(flat), 2))
        )
    except (ValueError, zlib.error, binascii.Error, IndexError, TypeError, RecursionError) as problem:
        raise ScheduleSyntaxError(text[:40], f"the trace cannot be unpacked: {problem}") from None
    if not well_formed:
        raise ScheduleSyntaxError(text[:40], "the trace holds something else than steps and disturbances")
    return Schedule(
        disturbances=tuple(Disturbance.parse(item) for item in disturbances),
        segments=tuple((names[flat[i]], flat[i + 1]) for i in range(0, len(flat), 2)),
        mode=mode,
        fingerprint=fingerprint,
    )


def _all(found: object, kind: type) -> bool:
    """Whether it is a list of these."""
    return isinstance(found, list) and all(type(item) is kind for item in found)


def in_base_36(number: int) -> str:
    """A natural number in base 36."""
    text = ""
    while True:
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
        if not number:
            return text
