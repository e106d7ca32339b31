"""A corpus of scenarios that each reach for something that no seed controls; `# leaks` marks the line to blame.

`ANSWERED` ask for what a run answers itself: the same each time, and an error naming the line where the run is told not to
answer. `TRAPPED` are an error naming the line, always. `HIDDEN` are no call that could be caught: two processes tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import os
import random
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
import weakref
from random import shuffle
from time import monotonic

import trio

from engine.simulation import Simulation, point

# --- answered -------------------------------------------------------------------------------------


async def wall_clock(sim: Simulation) -> None:
    sim.note(time.time())  # leaks


async def a_clock_imported_by_name(sim: Simulation) -> None:
    sim.note(monotonic())  # leaks


async def datetime_now(sim: Simulation) -> None:
    sim.note(datetime.datetime.now(datetime.UTC))  # leaks


async def today(sim: Simulation) -> None:
    sim.note(datetime.date.today())  # leaks


async def the_hour_as_text(sim: Simulation) -> None:
    sim.note(time.strftime("%Y %j %H:%M:%S"))  # leaks


async def random_uuid(sim: Simulation) -> None:
    sim.note(uuid.uuid4())  # leaks


async def module_random(sim: Simulation) -> None:
    sim.note(random.random())  # leaks


async def a_shuffle_imported_by_name(sim: Simulation) -> None:
    cards = list(range(52))
    shuffle(cards)  # leaks
    sim.note(cards)


async def an_unseeded_generator(sim: Simulation) -> None:
    sim.note(random.Random().random())  # leaks


async def secret_token(sim: Simulation) -> None:
    sim.note(secrets.token_hex())  # leaks


async def operating_systems_bytes(sim: Simulation) -> None:
    sim.note(os.urandom(8))  # leaks


async def process_id(sim: Simulation) -> None:
    sim.note(os.getpid())  # leaks


async def time_of_a_file(sim: Simulation) -> None:
    sim.note(os.path.getmtime(__file__))  # leaks # noqa: ASYNC240


ANSWERED = (
    wall_clock,
    a_clock_imported_by_name,
    datetime_now,
    today,
    the_hour_as_text,
    random_uuid,
    module_random,
    a_shuffle_imported_by_name,
    an_unseeded_generator,
    secret_token,
    operating_systems_bytes,
    process_id,
    time_of_a_file,
)


# --- trapped --------------------------------------------------------------------------------------


async def uuid_of_the_machine(sim: Simulation) -> None:
    sim.note(uuid.uuid1())  # leaks


async def a_blocking_sleep(sim: Simulation) -> None:
    time.sleep(0.001)  # leaks # noqa: ASYNC251


async def a_thread(sim: Simulation) -> None:
    threading.Thread(target=lambda: None).start()  # leaks


async def a_worker_thread(sim: Simulation) -> None:
    await trio.to_thread.run_sync(lambda: None)  # leaks


async def a_file_read_by_a_thread(sim: Simulation) -> None:
    await trio.Path(__file__).read_bytes()  # leaks


async def a_socket(sim: Simulation) -> None:
    socket.socket().close()  # leaks


async def a_process(sim: Simulation) -> None:
    subprocess.run(["true"], check=True)  # leaks # noqa: ASYNC221


async def a_signal_handler(sim: Simulation) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # leaks


async def another_event_loop(sim: Simulation) -> None:
    asyncio.SelectorEventLoop()  # leaks


async def a_temporary_directory(sim: Simulation) -> None:
    with tempfile.TemporaryDirectory():  # leaks
        pass


async def a_collection(sim: Simulation) -> None:
    gc.collect()  # leaks


async def an_error_swallowed(sim: Simulation) -> None:
    with contextlib.suppress(Exception):
        socket.socket()  # leaks


async def a_clock_watched_without_awaiting(sim: Simulation) -> None:
    end = time.monotonic() + 1
    while time.monotonic() < end:  # leaks
        pass


async def _ticks():  # leaks
    for number in range(3):
        await trio.lowlevel.checkpoint()
        yield number


async def a_generator_dropped(sim: Simulation) -> None:
    async for number in _ticks():
        sim.note(number)
        break
    await trio.lowlevel.checkpoint()


_kept = []


async def a_generator_left_open(sim: Simulation) -> None:
    _kept[:] = [_ticks()]
    sim.note(await anext(_kept[0]))


class _Node:
    pass


async def a_callback_of_the_collector(sim: Simulation) -> None:
    node = _Node()
    node.itself = node
    reference = weakref.ref(node, lambda _: sim.note("collected"))
    del node
    gc.enable()
    try:
        garbage = list(map(set, [()] * 10_000))  # leaks
    finally:
        gc.disable()
    sim.note((reference() is None, len(garbage)))


TRAPPED = (
    uuid_of_the_machine,
    a_blocking_sleep,
    a_thread,
    a_worker_thread,
    a_file_read_by_a_thread,
    a_socket,
    a_process,
    a_signal_handler,
    another_event_loop,
    a_temporary_directory,
    a_collection,
    an_error_swallowed,
    a_clock_watched_without_awaiting,
    a_callback_of_the_collector,
)

GENERATORS = (a_generator_dropped, a_generator_left_open)
"""Trapped too; the line to blame is that of the generator."""


# --- hidden ---------------------------------------------------------------------------------------


async def order_of_a_set_of_strings(sim: Simulation) -> None:
    for name in {"alpha", "beta", "gamma", "delta", "epsilon", "zeta"}:
        await point(f"visit {name}")


async def order_of_a_set_of_objects(sim: Simulation) -> None:
    nodes = [_Node() for _ in range(24)]
    for node in set(nodes):
        await point(f"visit {nodes.index(node)}")


async def order_of_addresses(sim: Simulation) -> None:
    nodes = [_Node() for _ in range(24)]
    for node in sorted(nodes, key=id):
        await point(f"visit {nodes.index(node)}")


async def hash_of_a_string(sim: Simulation) -> None:
    await point(f"shard {hash('session') % 1000}")


async def an_address_in_a_key(sim: Simulation) -> None:
    sim.note(repr(_Node()))


async def an_environment_variable(sim: Simulation) -> None:
    if os.environ["TZ"] == "UTC":
        await point("no daylight saving time")


async def the_local_time_zone(sim: Simulation) -> None:
    sim.note(time.localtime(0).tm_hour)


async def order_of_cancellations(sim: Simulation) -> None:
    order = []

    def abort(number: int) -> trio.lowlevel.Abort:
        order.append(number)
        return trio.lowlevel.Abort.SUCCEEDED

    async def park(number: int) -> None:
        await trio.lowlevel.wait_task_rescheduled(lambda _: abort(number))

    async with trio.open_nursery() as nursery:
        for number in range(24):
            nursery.start_soon(park, number)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    sim.note(order)


async def a_clock_kept_in_a_default(sim: Simulation, now=time.perf_counter_ns) -> None:
    sim.note(now())


HIDDEN = {
    order_of_a_set_of_strings: "step",
    order_of_a_set_of_objects: "step",
    order_of_addresses: "step",
    hash_of_a_string: "step",
    an_environment_variable: "step",
    an_address_in_a_key: "note",
    the_local_time_zone: "note",
    order_of_cancellations: "note",
    a_clock_kept_in_a_default: "note",
}
"""With what the first difference is."""


async def nothing_leaks(sim: Simulation) -> None:
    """All that a run answers (but for local time, whose zone is the host's), and three actors: the same everywhere."""
    for scenario in ANSWERED:
        if scenario not in (today, the_hour_as_text):
            await scenario(sim)

    async def act(name: str) -> None:
        for number in range(3):
            await point(f"{name} {number}", writes=(f"shared {number}",))
            sim.note((name, number, uuid.uuid4(), trio.current_time()))
            await trio.sleep(0.5)

    async with sim.actors() as actors:
        for name in ("one", "two", "three"):
            actors.start(name, act, name)
