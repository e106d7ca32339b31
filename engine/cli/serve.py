"""`engine serve`: open a file and serve it over WebSockets until a signal comes.

Owns: the options, the line that says where, what the signals do. Must not know: the protocol.
Invariant: what is wrong with the call is told before the file is opened.
"""

from __future__ import annotations

import signal
import ssl
from functools import partial
from pathlib import Path

import attrs
import click
import trio

from engine.cli import output
from engine.cli.options import Settings, shared_options
from engine.errors import InvalidArgumentError
from engine.runtime import open_engine
from engine.server import Server, Token, check_host, check_origins, read_tokens, serve

DEFAULT_PORT = 8765


@attrs.frozen(kw_only=True)
class _Door:
    """Where to listen, and who may come in."""

    host: str
    port: int
    tokens: tuple[Token, ...]
    origins: tuple[str, ...]
    read_only: bool
    ssl_context: ssl.SSLContext | None


@click.command("serve")
@click.option(
    "--host", metavar="NAME", default="127.0.0.1", show_default=True, help="Listen here; elsewhere needs --tokens."
)
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65_535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Listen on this port; 0 takes one that is free.",
)
@click.option(
    "--tokens",
    "tokens_file",
    metavar="FILE",
    help="Let in only who has one of these tokens: a line each, TOKEN WORKSPACE read|write. Empty lines and # are skipped.",
)
@click.option(
    "--origin",
    "origins",
    metavar="URL",
    multiple=True,
    help="Let pages of this origin connect, such as https://app.example; * is every page. May be given several times.",
)
@click.option("--read-only", is_flag=True, help="Without --tokens: clients may look, and change nothing.")
@click.option("--certificate", metavar="FILE", help="Serve TLS with this certificate chain (PEM).")
@click.option("--key", metavar="FILE", help="The certificate's private key (PEM), where it stands in a file of its own.")
@shared_options()
def command(
    settings: Settings,
    host: str,
    port: int,
    tokens_file: str | None,
    origins: tuple[str, ...],
    read_only: bool,
    certificate: str | None,
    key: str | None,
) -> None:
    """Serve a file to clients over WebSockets, and print where once it listens.

    This process owns the file until it ends. Without --tokens everybody on this machine may connect, to --workspace; with
    them each token says its workspace. Ctrl-C and SIGTERM end it in order: clients are told where to go on, what they had
    asked for is carried out.

    --json: one document once it listens (url, host, port).
    """
    if tokens_file is not None and read_only:
        raise click.UsageError("--read-only: with --tokens each token says whether it may write")
    tokens = () if tokens_file is None else _tokens(tokens_file)
    check_host(host, tokens=len(tokens))
    door = _Door(
        host=host,
        port=port,
        tokens=tokens,
        origins=check_origins(origins),
        read_only=read_only,
        ssl_context=_context(certificate, key),
    )
    if trio.run(_serve, settings, door) == signal.SIGINT:
        raise KeyboardInterrupt


async def _serve(settings: Settings, door: _Door) -> int:
    """Serve until a signal comes; which one."""
    events, projections = settings.app.events, settings.app.projections
    async with open_engine(settings.db, events=events, projections=projections) as engine, trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            try:
                server: Server = await nursery.start(
                    partial(
                        serve,
                        engine,
                        host=door.host,
                        port=door.port,
                        tokens=door.tokens,
                        origins=door.origins,
                        ssl_context=door.ssl_context,
                        workspace=settings.workspace,
                        access="read" if door.read_only else "write",
                    )
                )
            except OSError as problem:
                raise click.ClickException(f"listen on {door.host} port {door.port}: {_why(problem)}") from None
            if settings.as_json:
                output.write_json({"url": server.url, "host": door.host, "port": server.port})
            else:
                click.echo(f"serving on {server.url}")
            received: int = await anext(aiter(signals))
        # A second signal ends the process at once, as always.
        await server.close()
    return received


def _tokens(path: str) -> tuple[Token, ...]:
    try:
        tokens = tuple(read_tokens(Path(path).read_text(encoding="utf-8")))
    except OSError as problem:
        raise click.UsageError(f"--tokens {path}: {_why(problem)}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"--tokens {path}: it is no text in UTF-8") from None
    except InvalidArgumentError as problem:
        raise click.UsageError(f"--tokens {path}: {problem.problem}") from None
    if not tokens:
        raise click.UsageError(f"--tokens {path}: it holds no token, so nobody could connect")
    return tokens


def _context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise click.UsageError("--key: it needs --certificate")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # A key that wants a password is refused, instead of asked for on a terminal that may not be there.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as problem:
        raise click.UsageError(f"--certificate {certificate}: {_why(problem)}") from None
    return context


def _why(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem)
