"""What a schedule asks for, while its run goes on: what is held until when, what is to be disturbed, what never came.

Owns: holds and planned disturbances. Must not know: who runs, how a disturbance is carried out.
Invariants: a hold is released when all that it waits for is done, or by force, and then it is remembered as unmet.
"""

from __future__ import annotations

from engine.simulation.choices import Address, Disturbance
from engine.simulation.schedule import Schedule

Place = tuple[str, str, int]
"""(actor, label, nth): an address as the controller compares it."""


def place_of(address: Address) -> Place:
    """An address as a tuple."""
    return (address.actor, address.label, address.nth)


class Plan:
    """A schedule being followed."""

    def __init__(self, schedule: Schedule) -> None:
        self.done: set[Place] = set()
        """Every operation that was done."""
        self.carried_out: list[Disturbance] = []
        """Every disturbance that took place, in order."""
        self.unmet: list[str] = []
        self.forced = 0
        """Holds that were given up before anything had failed."""
        self._asked = schedule.holds
        self._planned = schedule.disturbances
        self._holds: dict[Place, list[Place]] = {}
        self._disturbances: dict[Place, list[Disturbance]] = {}
        self._preferred: dict[Place, str] = {}
        for hold in schedule.holds:
            if hold.eager:
                self._preferred[place_of(hold.held)] = hold.until.actor
            self._holds.setdefault(place_of(hold.held), []).append(place_of(hold.until))
        for item in schedule.disturbances:
            self._disturbances.setdefault(place_of(item.at), []).append(item)

    def holds(self, place: Place) -> bool:
        """Whether an actor must wait before this operation."""
        untils = self._holds.get(place)
        return untils is not None and not self.done.issuperset(untils)

    def preferred(self, place: Place) -> str | None:
        """Who is to run whenever it can while this is held."""
        return self._preferred.get(place)

    def let_go(self, place: Place, *, early: bool = True) -> None:
        """Give up a hold: what it waits for cannot come. `early`: nothing had failed yet."""
        self.forced += early
        for until in self._holds.pop(place):
            if until not in self.done:
                self.unmet.append(f"{Address(*place)}>{Address(*until)}: the second did not come while the first was held")

    def due(self, place: Place) -> list[Disturbance]:
        """What is to be done to an operation now. It is taken off the plan."""
        return self._disturbances.pop(place, []) if self._disturbances else []

    def take(self, kind: str, place: Place) -> Disturbance | None:
        """A disturbance planned for something that is not a step (a batch's cut, an operation of the disk)."""
        for item in self._disturbances.get(place, ()):
            if item.kind == kind:
                self._disturbances[place].remove(item)
                self.carried_out.append(item)
                return item
        return None

    def cannot(self, kind: str, place: Place) -> None:
        """What was to be done there turned out to be impossible."""
        at = next(number for number in reversed(range(len(self.carried_out))) if self.carried_out[number].kind == kind)
        item = self.carried_out.pop(at)
        assert place_of(item.at) == place
        if item in self._planned:
            self.unmet.append(f"{item}: there was nothing to disturb")

    def left_over(self) -> list[str]:
        """What the schedule asked for and the run never came to."""
        missed = [f"{hold}: {hold.held} never came" for hold in self._asked if place_of(hold.held) not in self.done]
        unused = [f"{item}: {item.at} never came" for items in self._disturbances.values() for item in items]
        return self.unmet + missed + unused
