"""The command group."""

from __future__ import annotations

import click

from pytinykv import __version__
from pytinykv.cli.servers import scheduler, store


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tinykv")
def main() -> None:
    """TinyKV in Python: a replicated key-value store that speaks TiKV's protocol, and always stops."""


for command in (scheduler, store):
    main.add_command(command)
