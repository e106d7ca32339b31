"""The injected primitives: what an actor uses to reach the world.

Owns: the mailbox, the one-shot reply, the clock, ids, the step that runs SQL, spawning, the network, and the bundle
(`Ports`) that the composition root hands down. Must not know: events, SQL, or who sends what.
Invariants: one receiver per mailbox, FIFO among senders, nothing accepted is lost to cancellation; a reply is resolved
once and wakes one waiter once; an interrupt from the keyboard never falls between a wake and its note (trio would die
of the second wake). Time for deadlines is trio's own clock (`trio.current_time`), which trio lets a test replace; the
clock here is the wall clock that gets stored.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple

import attrs
import trio

from engine.errors import ForkedError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ForkGuard:
    """Remembers the process that made it; `check` refuses to serve a forked child.

    SQLite connections must not be carried across a fork (https://sqlite.org/howtocorrupt.html section 2.6). Forks are
    counted by a hook, because asking for the pid on every call is a system call.
    """

    __slots__ = ("_forks", "_pid")

    def __init__(self) -> None:
        self._forks = _forks
        self._pid = os.getpid()

    def check(self) -> None:
        """Raise `ForkedError` in a child of the process that made this guard."""
        if self._forks != _forks:
            raise ForkedError(self._pid)


_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class Reply(Generic[T]):
    """A one-shot reply channel: one `resolve` or `reject`, one waiter, woken once."""

    __slots__ = ("_error", "_task", "_value", "answered")

    def __init__(self) -> None:
        self.answered = False
        """Whether the one answer was given."""
        self._value: T | None = None
        self._error: BaseException | None = None
        self._task: trio.lowlevel.Task | None = None

    def resolve(self, value: T) -> None:
        """Answer with a value. A second answer is a bug and raises `RuntimeError`."""
        self._answer()
        self._value = value

    def reject(self, error: BaseException) -> None:
        """Answer with an exception, which must belong to this waiter alone (see `EngineError.clone`)."""
        self._answer()
        self._error = error

    @trio.lowlevel.enable_ki_protection
    def _answer(self) -> None:
        if self.answered:
            raise RuntimeError("a reply channel was answered twice")
        self.answered = True
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> T:
        """Wait for the answer. Cancelled, only the wait ends: what was asked for goes on."""
        if not self.answered:
            self._task = trio.lowlevel.current_task()

            def withdraw(_raise_cancel: object) -> trio.lowlevel.Abort:
                self._task = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(withdraw)
        else:
            await trio.lowlevel.checkpoint()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


@attrs.define(eq=False)
class _Sender:
    """A sender that waits for room: its item, its weight, its task."""

    item: Any
    size: int
    task: trio.lowlevel.Task


class Mailbox(Generic[T]):
    """A bounded FIFO queue with many senders and one receiver.

    Bounded twice: in items and in bytes. An item beyond the byte bound is admitted when the mailbox is empty.
    Waiting senders are admitted in the order they came; nobody overtakes them.
    """

    def __init__(self, name: str, *, items_max: int, bytes_max: int) -> None:
        self.name = name
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._senders: deque[_Sender] = deque()
        self._receiver: trio.lowlevel.Task | None = None
        self._poked = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size_bytes(self) -> int:
        """Bytes of the items that wait."""
        return self._bytes

    @property
    def senders_waiting(self) -> int:
        """Senders that wait for room."""
        return len(self._senders)

    def _has_room(self, size: int) -> bool:
        if not self._items:
            return True
        return len(self._items) < self._items_max and self._bytes + size <= self._bytes_max

    @trio.lowlevel.enable_ki_protection
    def put_nowait(self, item: T, size: int = 0) -> None:
        """Enqueue, or raise `trio.WouldBlock` when it is full or others wait already."""
        if self._senders or not self._has_room(size):
            raise trio.WouldBlock
        self._admit(item, size)

    @trio.lowlevel.enable_ki_protection
    async def put(self, item: T, size: int = 0) -> None:
        """Enqueue, waiting for room. Cancelled while waiting: the item was not accepted."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self.put_nowait(item, size)
        except trio.WouldBlock:
            pass
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        sender = _Sender(item, size, trio.lowlevel.current_task())
        self._senders.append(sender)

        def withdraw(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._senders.remove(sender)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(withdraw)

    def _admit(self, item: T, size: int) -> None:
        self._items.append((item, size))
        self._bytes += size
        self.poke()

    @trio.lowlevel.enable_ki_protection
    def poke(self) -> None:
        """Wake the receiver without an item (there is something else for it to see)."""
        self._poked = True
        if self._receiver is not None:
            trio.lowlevel.reschedule(self._receiver)
            self._receiver = None

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> None:
        """Wait until there is an item or a poke since the last `wait`. Only the receiver may call it."""
        if self._poked:
            await trio.lowlevel.checkpoint()
        else:
            self._receiver = trio.lowlevel.current_task()

            def withdraw(_raise_cancel: object) -> trio.lowlevel.Abort:
                self._receiver = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(withdraw)
        self._poked = False

    def peek(self) -> T | None:
        """The next item, left where it is."""
        return self._items[0][0] if self._items else None

    @trio.lowlevel.enable_ki_protection
    def take(self) -> T | None:
        """The next item, or None when there is none. Admits waiting senders into the room it left."""
        if not self._items:
            return None
        item, size = self._items.popleft()
        self._bytes -= size
        while self._senders and self._has_room(self._senders[0].size):
            sender = self._senders.popleft()
            self._admit(sender.item, sender.size)
            trio.lowlevel.reschedule(sender.task)
        return item


class Clock(Protocol):
    """The wall clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00Z. May jump; nothing is ordered by it."""


class Ids(Protocol):
    """Where fresh ids and epochs come from."""

    def new_id(self, prefix: str) -> str:
        """A new opaque id that starts with `prefix` and an underscore."""

    def new_epoch(self) -> str:
        """A new random epoch id: 12 hexadecimal digits."""


class SyncUnavailableError(Exception):
    """Whoever syncs is gone; nothing is known of the device."""


class Sync(Protocol):
    """Makes committed bytes durable outside the SQL step, so that a slow disk does not stop the loop."""

    async def sync(self) -> None:
        """Return once everything committed before the call is on the device.

        Raises `OSError` when the device failed, and `SyncUnavailableError` when it cannot be asked any more.
        """

    async def checkpoint(self) -> None:
        """Copy the WAL into the file and begin it anew. Raises as `sync` does."""

    async def aclose(self) -> None:
        """Release what it holds. Idempotent."""


@attrs.frozen(kw_only=True)
class Listening:
    """What `Network.listen` opened."""

    listeners: tuple[trio.abc.Listener[trio.abc.Stream], ...]
    """To be served with `trio.serve_listeners`; all of them have the one port."""
    port: int
    """The port they listen on: the one asked for, or the one that was free where 0 was asked for."""


class Network(Protocol):
    """Opens byte streams. TLS is put on top by whoever uses them."""

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        """A stream to somebody who listens there. Raises `OSError`."""

    async def listen(self, host: str, port: int) -> Listening:
        """Listen on every address of the host. Raises `OSError` where the port is taken or the host is not this one."""


class TcpNetwork:
    """The machine's own TCP."""

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        return await trio.open_tcp_stream(host, port)

    async def listen(self, host: str, port: int) -> Listening:
        opened = await trio.open_tcp_listeners(port, host=host)
        if port == 0 and len(opened) > 1:
            # Each address got a port of its own: keep to the first one's.
            for listener in opened[1:]:
                await listener.aclose()
            opened = opened[:1]
        return Listening(listeners=tuple(opened), port=opened[0].socket.getsockname()[1])


class SystemClock:
    """The machine's wall clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class RandomIds:
    """Ids from the operating system's randomness."""

    def new_id(self, prefix: str) -> str:
        return f"{prefix}_{os.urandom(12).hex()}"

    def new_epoch(self) -> str:
        return os.urandom(6).hex()


async def run_inline(step: Callable[[], T]) -> T:
    """Run a SQL step on the loop's own thread. A worker thread starves beside a busy loop (see bench/README.md)."""
    return step()


class SqlStep(Protocol):
    """Runs one synchronous SQL step to its end. It is never cancelled half-way."""

    def __call__(self, step: Callable[[], T], /) -> Awaitable[T]: ...


class Spawn(Protocol):
    """Starts an actor's task under a stable name."""

    def __call__(self, nursery: trio.Nursery, function: Callable[[], Awaitable[object]], /, *, name: str) -> None: ...


def spawn_in_nursery(nursery: trio.Nursery, function: Callable[[], Awaitable[object]], /, *, name: str) -> None:
    """Start the task with `nursery.start_soon`."""
    nursery.start_soon(function, name=name)


@attrs.frozen(kw_only=True)
class Ports:
    """The primitives of one engine, chosen by the composition root. The defaults are the real world."""

    clock: Clock = attrs.field(factory=SystemClock)
    ids: Ids = attrs.field(factory=RandomIds)
    mailbox: Callable[..., Mailbox[Any]] = Mailbox
    reply: Callable[[], Reply[Any]] = Reply
    step: SqlStep = run_inline
    spawn: Spawn = spawn_in_nursery
    start_sync: Callable[[str], Awaitable[Sync]] | None = None
    """Starts what syncs the log at a path where COMMIT shall not; None is the engine's helper process."""
    network: Network = attrs.field(factory=TcpNetwork)
    random: Callable[[], float] = random.random
    """A number from 0 to below 1: spreads the retries of many clients."""
    vfs: str | None = None
    """Name of the SQLite VFS for every connection; None is the platform's own."""
