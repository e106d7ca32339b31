"""The sync helper on a slow disk: the engine's own helper program, each of its syncs a delay longer.

Run by `slow_disk` as `python -m bench.slow_helper DELAY_S PATH`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress

from bench.disk import measured_disk
from engine.store.sync_helper import WalFile, checkpoint_and_restart, serve


def main() -> None:
    """Serve the log whose path is the last argument, over the socket that is standard input."""
    delay_s, path = float(sys.argv[-2]), sys.argv[-1]
    wal = WalFile(path)

    def sync() -> None:
        time.sleep(delay_s)
        wal.sync()

    with measured_disk(sync_delay_s=delay_s) as (vfs, _), suppress(OSError):
        serve(socket.socket(fileno=os.dup(0)), path, sync, lambda: checkpoint_and_restart(path, vfs))
    os._exit(0)


if __name__ == "__main__":
    main()
