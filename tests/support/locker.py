"""A foreign process that takes a log's write lock and holds it until told to let go, or for ever.

python -m tests.support.locker PATH

Says `held` once it has the lock; a byte or the end of its stdin lets it go.
"""

from __future__ import annotations

import sys

import apsw


def main(path: str) -> None:
    connection = apsw.Connection(path)
    connection.set_busy_timeout(5_000)
    connection.execute("BEGIN IMMEDIATE")
    sys.stdout.write("held\n")
    sys.stdout.flush()
    sys.stdin.read(1)
    connection.execute("ROLLBACK")
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
