"""Networks in runs: trio-websocket on both ends, and connections that are lost, held up, cut, or die with a process."""

from __future__ import annotations

import pytest
import trio

from engine import simulation
from engine.simulation import Hold, Run, Simulation, order
from engine.simulation.choices import Disturbance
from engine.simulation.errors import DeadlockError, InvariantError, ScheduleSyntaxError
from engine.simulation.network import BUFFER_BYTES_MAX
from engine.simulation.scenarios import networked
from engine.simulation.twin import twin
from tests.support import echoes
from tests.support.budget import pick

LAST_WORDS = b"said, not read, not answered"
SERVER = "serve/_run_handler for client"


def wires(scenario: simulation.running.Scenario, *kinds: str) -> list[str]:
    """The operations of a connection in the default order, of these kinds (the first words of their labels)."""
    result = simulation.run(scenario)
    assert result.error is None
    return [str(step) for step in result.steps if step.op.wire and step.label.split()[0] in kinds]


def disturbed(scenario: simulation.running.Scenario, *terms: str, **options: object) -> Run:
    """A run under these terms, all of which must have come to pass."""
    result = simulation.run(scenario, "c1:" + ";".join(terms), **options)  # type: ignore[arg-type]
    assert not result.unmet
    return result


# --- what is said over streams ------------------------------------------------------------------------


def said(*units: bytes, pause_s: float = 0.0) -> tuple[simulation.running.Scenario, list[object]]:
    """A scenario in which `a` sends these units to `b`, and what `b` read and both saw at the end."""
    seen: list[object] = []

    async def scenario(sim: Simulation) -> None:
        seen.clear()
        listening = await sim.network.listen("there", 1)

        async def a() -> None:
            stream = await sim.network.connect("there", 1)
            try:
                for unit in units:
                    await stream.send_all(unit)
                    await trio.sleep(pause_s)
            except trio.BrokenResourceError:
                seen.append("a: broken")
            await stream.aclose()

        async def b() -> None:
            stream = await listening.listeners[0].accept()
            try:
                while data := await stream.receive_some():
                    seen.append((trio.current_time(), bytes(data)))
                seen.append("b: end")
            except trio.BrokenResourceError:
                seen.append("b: broken")

        async with sim.actors() as actors:
            actors.start("a", a)
            actors.start("b", b)

    return scenario, seen


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("a#connect to there:1>b#accept", [(0, b"one"), (1, b"two"), "b: end"]),
        ("net@a#send to there:1[2]=lost/0", [(0, b"one"), "a: broken", "b: broken"]),
        ("net@a#send to there:1[2]=lost/2", [(0, b"one"), "a: broken", (1, b"tw"), "b: broken"]),
        ("net@a#send to there:1[2]=lost/all", [(0, b"one"), "a: broken", (1, b"two"), "b: broken"]),
        ("net@b#receive from a[2]=lost/0", [(0, b"one"), "b: broken"]),
        ("net@b#receive from a[2]=lost/1", [(0, b"one"), (1, b"t"), "b: broken"]),
        ("net@b#receive from a[2]=lost/all", [(0, b"one"), (1, b"two"), "b: broken"]),
        ("net@a#send to there:1=delay/2500", [(2.5, b"onetwo"), "b: end"]),
        ("net@b#receive from a=delay/500", [(0.5, b"one"), (1, b"two"), "b: end"]),
        ("net@a#send to there:1=split/1", [(0, b"o"), (0, b"ne"), (1, b"two"), "b: end"]),
        ("net@b#receive from a=split/2", [(0, b"on"), (0, b"e"), (1, b"two"), "b: end"]),
        ("net@a#connect to there:1=delay/9000", [(9, b"one"), (10, b"two"), "b: end"]),
        (
            "net@a#send to there:1=delay/60000; net@a#send to there:1[2]=lost/1",
            ["a: broken", (1, b"onet"), "b: broken"],
        ),
        ("net@a#send to there:1=delay/60000; net@b#receive from a=lost/0", ["b: broken"]),
        ("b#receive from a>a#send to there:1[2]", [(1, b"onetwo"), "b: end"]),
    ],
)
def test_what_happens_to_a_connection_is_what_the_schedule_says(term, expected):
    """Bytes arrive in order, so many of them, then; each end sees the break that it can see, on both drivers."""
    scenario, seen = said(b"one", b"two", pause_s=1.0)
    digests = set()
    for driver in ("hook", "gate"):
        if term.startswith("a#connect"):
            result = simulation.run(scenario, driver=driver)
        else:
            result = disturbed(scenario, term, driver=driver)
        assert result.error is None
        assert seen == expected
        digests.add(result.digest)
    assert len(digests) == 1


def test_a_lost_connect_is_refused():
    """Whoever connects sees an error of the operating system."""
    scenario, _ = said(b"one")
    result = disturbed(scenario, "net@a#connect to there:1=lost/0")
    assert isinstance(result.error, ConnectionRefusedError)


@pytest.mark.parametrize(
    ("term", "why"),
    [
        ("net@a#sleep=lost/0", "there was nothing to disturb"),
        ("net@a#send to there:1=split/3", "there was nothing to disturb"),
        ("net@b#receive from a=split/3", "there was nothing to disturb"),
        ("net@a#connect to there:1=split/3", "there was nothing to disturb"),
        ("net@b#receive from a[9]=lost/0", "never came"),
    ],
)
def test_what_cannot_be_disturbed_is_said(term, why):
    """An operation without a connection, or a cut behind the last byte: the run goes on, and says it."""
    scenario, _ = said(b"one", b"two", pause_s=1.0)
    result = simulation.run(scenario, f"c1:{term}")
    assert result.error is None
    (unmet,) = result.unmet
    assert why in unmet


@pytest.mark.parametrize("value", ["", "=lost", "=lost/", "=lost/x", "=lost/-1", "=delay/0", "=delay/all", "=split/0"])
def test_a_net_that_is_nothing_is_refused(value):
    """The value says what happens; there is no default."""
    with pytest.raises(ScheduleSyntaxError, match="is nothing that a net can be"):
        simulation.run(said()[0], f"c1:net@a#send{value}")


def test_a_sender_who_is_ahead_of_its_reader_waits():
    """Without a reader the sender waits for room, and a deadlock says for what."""

    async def scenario(sim: Simulation) -> None:
        await sim.network.listen("there", 1)

        async def a() -> None:
            stream = await sim.network.connect("there", 1)
            await stream.send_all(bytes(BUFFER_BYTES_MAX + 1))

        async with sim.actors() as actors:
            actors.start("a", a)

    error = simulation.run(scenario).error
    assert isinstance(error, DeadlockError)
    assert "a (room to send)" in str(error)


# --- WebSockets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["lost/0", "lost/5", "lost/all"])
@pytest.mark.parametrize("kind", ["send", "receive"])
def test_a_lost_connection_is_noticed_and_survived(kind, harm):
    """Lost at any send or receive before the farewell: an exchange fails; a client that comes back gets all its answers."""
    places = wires(echoes.once, kind)
    assert len(places) >= 10
    failures = sum(disturbed(echoes.once, f"net@{place}={harm}").failed for place in places)
    assert failures >= len(places) - 4
    for place in wires(echoes.patient, kind):
        result = disturbed(echoes.patient, f"net@{place}={harm}")
        assert result.error is None, f"{place}: {result.error!r}"


def test_a_frame_that_is_cut_is_no_frame():
    """The server reads the first bytes of a frame and then no more: it answers what was whole, and hangs up."""
    places = wires(echoes.once, "send")
    second = next(place for place in places if place == "client#send to echo:80[2]")
    result = disturbed(echoes.once, f"net@{second}=lost/3")
    assert type(result.error).__name__ == "ConnectionClosed"
    assert f"{SERVER}#send to client[2]" in result.trace
    assert f"{SERVER}#send to client[3]" not in result.trace


def test_frames_that_come_in_pieces_are_frames():
    """Any unit split behind its first byte, as it is sent or read: the exchange goes well."""
    split = 0
    for place in wires(echoes.once, "send", "receive"):
        result = simulation.run(echoes.once, f"c1:net@{place}=split/1")
        assert result.error is None
        split += not result.unmet  # the last receives of each side find the end: nothing to split
    assert split >= 18


def test_an_answer_that_is_held_up_makes_a_timeout_fire():
    """Beyond the client's patience it gives up; below it, it waits."""
    answer = f"net@{SERVER}#send to client[3]=delay"
    late = disturbed(echoes.once, f"{answer}/20001")
    assert isinstance(late.error, trio.TooSlowError)
    assert late.seconds >= echoes.PATIENCE_S
    in_time = disturbed(echoes.once, f"{answer}/19999")
    assert in_time.error is None
    assert in_time.seconds == pytest.approx(19.999)


def test_clients_that_come_back_survive_every_schedule():
    """Whatever is lost, held up and cut, in whatever order: each frame is answered, once."""
    campaign = simulation.explore(echoes.patient, schedules=150, faults=("net",), seed=1)
    assert campaign.failure is None, campaign.failure


def test_what_is_disturbed_replays_from_its_string():
    """A campaign's failures come back with the same digest, in every form of a schedule."""
    campaign = simulation.explore(echoes.once, schedules=40, faults=("net",), strategy="random", failures_max=5)
    assert len(campaign.failures) == 5
    for failure in campaign.failures:
        assert {item.kind for item in failure.run.disturbances} == {"net"}
        for text in (failure.schedule, str(failure.run.schedule())):
            again = simulation.replay(echoes.once, text, faults=("net",))
            assert (again.digest, again.signature) == (failure.run.digest, failure.run.signature)


def test_shrinking_keeps_the_one_loss_that_it_takes():
    """Of a random run with several disturbances one is left, with no ordering, and without it the scenario passes."""
    campaign = simulation.explore(echoes.once, schedules=60, faults=("net",), strategy="pos", failures_max=60)
    failure = next(failure for failure in campaign.failures if len(failure.run.disturbances) > 1)
    shrunk = simulation.shrink(echoes.once, failure, faults=("net",))
    assert not shrunk.schedule.holds
    (item,) = shrunk.schedule.disturbances
    assert isinstance(item, Disturbance)
    assert item.kind == "net"
    assert shrunk.reliable
    assert shrunk.proved


def test_a_handler_is_called_after_the_connection_it_serves():
    """Also where the second client is first: a schedule means the same connection in every order."""
    default = simulation.run(echoes.patient)
    second_first: Hold = order("client 2#connect to echo:80", before="client 1#connect to echo:80")
    turned = simulation.run(echoes.patient, simulation.Schedule(holds=(second_first,)))
    handlers = []
    for result in (default, turned):
        assert result.error is None
        assert not result.unmet
        handlers.append(list(dict.fromkeys(step.actor for step in result.steps if step.actor.endswith("reader_task"))))
    server = "serve/_run_handler for client"
    assert sorted(handlers[0]) == sorted(handlers[1])
    assert handlers[0] != handlers[1]
    assert set(handlers[0]) == {f"{name} {number}/_reader_task" for name in ("client", server) for number in (1, 2)}


# --- a process dies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["process", "power/0", "power/1", "power/2"])
def test_a_client_outlives_the_server(way):
    """The server's process dies at any operation of a connection: the client comes back to the next one."""
    died = 0
    for place in wires(echoes.restarting, "send", "receive"):
        result = disturbed(echoes.restarting, f"crash@{place}={way}")
        assert result.error is None, f"{place}: {result.error!r}"
        died += result.covered["the server's process died"]
    if way == "process":
        assert died >= 10


def dying() -> tuple[simulation.running.Scenario, list[object]]:
    """A scenario in which a server says something before `dies here`, and what a client outside of its process saw."""
    seen: list[object] = []

    async def scenario(sim: Simulation) -> None:
        seen.clear()

        async def server() -> None:
            async with sim.process() as process:
                listening = await process.network.listen("there", 1)
                stream = await listening.listeners[0].accept()
                await stream.send_all(LAST_WORDS)
                await simulation.point("dies here")
                seen.append("the process goes on")

        async def client() -> None:
            await trio.sleep(1)
            stream = await sim.network.connect("there", 1)
            await trio.sleep(1)
            try:
                while data := await stream.receive_some():
                    seen.append(data)
                seen.append("end")
            except trio.BrokenResourceError:
                seen.append("broken")
            with pytest.raises(ConnectionRefusedError):
                await sim.network.connect("there", 1)

        async with sim.actors() as actors:
            actors.start("server", server)
            actors.start("client", client)

    return scenario, seen


def test_what_a_dead_process_had_sent_arrives():
    """The system closes for it: its last words, and the end."""
    scenario, seen = dying()
    assert disturbed(scenario, "crash@server#dies here=process").error is None
    assert seen == [LAST_WORDS, "end"]


def test_what_a_dead_machine_had_sent_may_have_arrived():
    """All of it, a part of it, or nothing, and then a break: the number in the schedule says which."""
    scenario, seen = dying()
    outcomes = []
    for number in range(8):
        assert disturbed(scenario, f"crash@server#dies here=power/{number}").error is None
        *words, end = seen
        assert end == "broken"
        outcomes.append(b"".join(word for word in words if isinstance(word, bytes)))
    assert all(LAST_WORDS.startswith(words) for words in outcomes)
    assert {b"", LAST_WORDS} < set(outcomes)


def test_an_engine_has_the_network_of_its_process():
    """What it listens on in a process ends with it; outside of one it has the clients' network."""

    async def scenario(sim: Simulation) -> None:
        assert sim.host.ports().network is sim.network is sim.ports().network
        async with sim.process() as process:
            network = sim.host.ports().network
            assert network is process.network is not sim.network
            await network.listen("there", 1)
        await sim.network.listen("there", 1)

    assert simulation.run(scenario).error is None


def test_the_ports_randomness_is_the_runs():
    """The same numbers with the same seed; each actor has its own, so that leaving one out shifts no other's."""

    async def scenario(sim: Simulation) -> None:
        random = sim.ports().random

        async def draw(name: str) -> None:
            sim.note((name, random(), random()))

        async with sim.actors() as actors:
            for name in ("one", "two"):
                actors.start(name, draw, name)

    first, again, other = (simulation.run(scenario, seed=seed).notes for seed in (1, 1, 2))
    assert first == again
    assert len({*first, *other}) == 4
    alone = simulation.run(scenario, seed=1, dropped=frozenset({"one"})).notes
    assert alone == first[1:]


# --- determinism --------------------------------------------------------------------------------------


def test_two_processes_agree_on_every_run():
    """Hash seeds, addresses and time zones change nothing, with every kind of loss; the nonces and masks are the run's."""
    targets = [f"tests.support.echoes:{name}" for name in ("once", "patient", "restarting")]
    found = twin(targets, seeds=(0, 1), schedules=40, faults=("net", "crash"))
    assert found.divergence is None
    assert found.runs >= 200


# --- resuming -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "got"),
    [
        ("net@uploader#send to upload:9000[3]=lost/all", "['0', '1', '1', '2']"),
        ("net@server/_run_handler for uploader#receive from uploader=lost/2", "[]"),
        ("net@server/_run_handler for uploader#receive from uploader=lost/5", "['0']"),
    ],
)
def test_counting_what_was_sent_makes_gaps_and_duplicates(term, got):
    """What arrived unknown to the sender is there twice; what was lost unknown to it is missing."""
    error = disturbed(networked.counting_sent(0), term).error
    assert isinstance(error, InvariantError)
    assert got in str(error)


def test_directed_search_loses_each_connection_at_each_operation():
    """It finds both: what came unknown to the sender, and what was lost unknown to it."""
    campaign = simulation.explore(
        networked.counting_sent(0), strategy="directed", faults=("net",), schedules=60, failures_max=60
    )
    found = {str(failure.run.disturbances[0]).partition("@")[2] for failure in campaign.failures}
    assert "uploader#send to upload:9000[3]=lost/all" in found
    assert "server/_run_handler for uploader#receive from uploader=lost/all" not in found
    assert any("receive from uploader" in place and place.endswith("lost/0") for place in found)


def test_counting_what_was_received_passes_every_schedule():
    """The same losses, and no gap and no duplicate."""
    for noise in (0, 2):
        campaign = simulation.explore(networked.counting_received(noise), schedules=pick(100, 300), faults=("net",))
        assert campaign.failure is None, campaign.failure
