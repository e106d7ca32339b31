"""Traps what CPython announces by itself: threads, processes, sockets, input.

Owns: the audit hook and its events. Must not know: how a module's functions are replaced.
Invariants: an audit hook cannot be removed, so there is one in a process, from the first installation on; it does nothing
unless a run is armed; an event reaches it however the function behind it was imported.
Source of the events' names: https://docs.python.org/3/library/audit_events.html.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from typing import Any, Final

from engine.simulation.traps.arming import WATCH
from engine.simulation.traps.boundary import REMEDIES
from engine.simulation.traps.sites import caller

EVENTS: Final = frozenset(
    {
        "_thread.start_new_thread",
        "_thread.start_joinable_thread",
        "builtins.input",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.kill",
        "os.killpg",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "signal.pthread_kill",
        "socket.__new__",
        "socket.getaddrinfo",
        "socket.gethostbyaddr",
        "socket.gethostbyname",
        "socket.gethostname",
        "subprocess.Popen",
        "tempfile.mkdtemp",
        "tempfile.mkstemp",
    }
)
"""Each is a source of the boundary under the same name."""

_installed = False


def install_hook() -> None:
    """Add the hook to the process, once."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_hook())


def _hook() -> Any:
    # Bound here: at the interpreter's end the hook outlives its module's names.
    watch, events, remedies, ident, get_frame = WATCH, EVENTS, REMEDIES, get_ident, sys._getframe

    def hook(event: str, args: tuple[Any, ...]) -> None:
        armed = watch.armed
        if armed is None or event not in events or armed.thread != ident():
            return
        frame, through = caller(get_frame(1))
        if frame is not None:
            raise armed.leak(event, remedies[event], frame, through)

    return hook
