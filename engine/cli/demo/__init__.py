import click


@click.command("demo")
def command() -> int:
    return 0
