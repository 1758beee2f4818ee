"""The `tinykv` command. Exit status: 0 clean, 1 failed, 2 bad usage, 3 the stop had to be forced.

    root       the command group        options    options that commands share, their variables and files
    servers    scheduler, store
"""

from pytinykv.cli.root import main

__all__ = ["main"]
