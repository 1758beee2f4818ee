"""The command group. It knows its commands by name and summary alone; their modules are loaded when they are used.

That way `tinykv get` does not load a server, nor `tinykv --help` anything at all. A new command is one line in
`catalog.COMMANDS`.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any, Final, NoReturn

import click

from pytinykv import __version__
from pytinykv.cli.catalog import COMMANDS
from pytinykv.cli.config_file import CONFIG_EPILOG
from pytinykv.cli.options import SuggestingGroup

_CANNOT_WRITE: Final = frozenset({errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT})
"""What writing to standard output fails with, apart from a reader that has gone, of which click takes care."""
SERVERS: Final = frozenset({"playground", "scheduler", "store"})
"""Commands that run until they are told to stop; they exit with status 0 then, however early it is."""


def _leave_early(_number: int, _frame: FrameType | None) -> NoReturn:
    """Leave because a signal came before there was anything to stop: a server's modules are still being loaded."""
    os.write(2, b"tinykv: told to stop before it had started anything\n")
    os._exit(0)


def _fill_closed_descriptors() -> None:
    """Put something in the place of standard streams that were closed before the start (`>&-`).

    Else an event loop or a data file would get the number, and what is printed would go there. Reading and
    printing fail, as they should.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDONLY if name == "stdout" else os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - of a number, for good


class LazyGroup(SuggestingGroup):
    """A group whose commands are loaded one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which the help shows them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; None if there is none of that name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run as the program of this process, and end it. (Tests call `main`.)"""
        _fill_closed_descriptors()
        if not SERVERS.isdisjoint(sys.argv[1:2]):
            # Until `run_process` puts its own handlers in place. SIGINT first: Python catches it already, by an exception, so
            # once SIGTERM is caught as well, both are caught by this.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGHUP:
                    signal.signal(number, _leave_early)
        try:
            self.main(*args, **{"prog_name": "tinykv", **kwargs})
        except OSError as error:
            if error.errno not in _CANNOT_WRITE or error.filename is not None:
                raise
            from pytinykv.cli.output import drop_output

            drop_output()
            print(f"tinykv: can't write the output: {error.strerror}", file=sys.stderr)
            status = 1
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else int(left.code is not None)
        else:
            status = 0
        if "pytinykv.lifecycle.signals" not in sys.modules:  # nothing was started that could keep the process
            raise SystemExit(status)
        from pytinykv.lifecycle.signals import leave_process

        leave_process(status)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=CONFIG_EPILOG,
)
@click.version_option(__version__, prog_name="tinykv")
def main() -> None:
    """TinyKV in Python: a replicated key-value store that speaks TiKV's protocol, and always stops.

    Begin with `tinykv playground` in one terminal, and `tinykv put greeting hello` in another.

    Exit status: 0 done, or stopped in good order; 1 the answer is no, or a server failed; 2 bad usage; 3 a server's exit had
    to be forced; 4 not done (no answer, refused); 130 interrupted.
    """
