#!/usr/bin/env python3
"""Write the pages of docs/ that are made from the code: metrics.md and options.md.

    python tools/gen_pages.py            write the pages
    python tools/gen_pages.py --check    change nothing; exit 1 if one is out of date

The tables come from `server/host/metric_specs.py`, and from the commands and the settings of the components themselves.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from pytinykv.cli.catalog import COMMANDS
from pytinykv.cli.config_file import CLIENT_KEYS, CONFIG_EXAMPLE
from pytinykv.cli.root import main as tinykv
from pytinykv.lifecycle.histogram import BOUNDS_S
from pytinykv.raftstore import RaftStoreConfig
from pytinykv.scheduler import SchedulerConfig
from pytinykv.server.host.metric_specs import GROUPS

ROOT: Final = Path(__file__).resolve().parent.parent
WRITTEN_BY: Final = "<!-- Written by tools/gen_pages.py: change the code, then run ./dev fmt. -->"
COMPONENTS: Final = {"store.raftstore": RaftStoreConfig, "scheduler.settings": SchedulerConfig}


def metrics_page() -> str:
    """Return docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        WRITTEN_BY,
        "",
        "A server that has a status port (`--status-addr HOST:PORT`) shows these at `/metrics`, in Prometheus's text format.",
        "They are read when they are asked for; counting costs a put less than 1 % of its processor time.",
        "",
        f"Buckets of all histograms, in seconds: {', '.join(f'{bound:g}' for bound in BOUNDS_S)}.",
        "[operations.md](operations.md) says which to watch.",
    ]
    for title, specs in GROUPS.items():
        lines += ["", f"## {title}", "", "| name | kind | labels | meaning |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{spec.name}` | {spec.kind} | {', '.join(f'`{label}`' for label in spec.labels)} | {spec.help} |"
            for spec in specs
        ]
    return "\n".join(lines) + "\n"


def options_page() -> str:
    """Return docs/options.md."""
    keys = ", ".join(f"`{key.replace('_', '-')}`" for key in sorted(CLIENT_KEYS))
    lines = [
        "# Options and settings",
        "",
        WRITTEN_BY,
        "",
        "A value comes from the flag, else from the variable, else from the file that `--config FILE.toml` names (or",
        "`TINYKV_CONFIG`), else from the default. In the file, a table with the command's name holds its options, spelt as",
        "the flags without dashes in front; `[client]` holds them for all commands that talk to a cluster:",
        f"{keys}. A key that is not known is an error.",
        "",
        "```toml",
        *CONFIG_EXAMPLE.strip().splitlines(),
        "```",
        "",
        "`tinykv COMMAND --help` shows the same, with how to use the command.",
    ]
    for name in COMMANDS:
        command = tinykv.get_command(click.Context(tinykv), name)
        assert command is not None
        for path, one in _leaves(name, command):
            lines += ["", f"## tinykv {path}", "", _first_sentence(one), *_options_table(one)]
    for table, kind in COMPONENTS.items():
        lines += [
            "",
            f"## [{table}]",
            "",
            f"Settings of `{kind.__name__}`, in the file only where no option of the command stands for them.",
            "Durations in seconds, sizes in bytes.",
            "",
            "| setting | default | effect |",
            "| --- | --- | --- |",
        ]
        lines += [f"| `{name}` | {default} | {effect} |" for name, default, effect in _settings(kind)]
    return "\n".join(lines) + "\n"


def _leaves(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from _leaves(f"{path} {name}", one)
    else:
        yield path, command


def _first_sentence(command: click.Command) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split())


def _options_table(command: click.Command) -> list[str]:
    rows = [_option_row(one) for one in command.params if isinstance(one, click.Option) and one.name != "config"]
    return ["", "| option | variable | default | effect |", "| --- | --- | --- | --- |", *rows]


def _option_row(option: click.Option) -> str:
    flag = " / ".join([*option.opts[:1], *option.secondary_opts[:1]])
    if not option.is_flag:
        flag += f" {option.metavar or _choices(option)}"
    told, _, from_help = (option.help or "").partition("  [default: ")
    default = from_help.rstrip("]") or ("" if option.is_flag and option.default is False else _shown(option.default))
    if option.required:
        default = "(required)"
    variable = f"`{option.envvar}`" if isinstance(option.envvar, str) else ""
    return f"| `{_cell(flag)}` | {variable} | {_cell(default)} | {_cell(told)} |"


def _choices(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return "|".join(option.type.choices)
    return option.type.name.upper().partition(" ")[0]


def _shown(value: Any) -> str:
    if value is None or value == "" or callable(value) or str(value).startswith("Sentinel"):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _settings(kind: type[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield name, default and effect of each field: the effect is the text that stands below the field in the source."""
    tree = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(tree, ast.ClassDef)
    instance = kind()
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
        yield field.target.id, _amount(getattr(instance, field.target.id)), _cell(re.sub(r"\s+", " ", str(text)))


def _amount(value: Any) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if isinstance(value, int) and not isinstance(value, bool) and value >= factor and value % factor == 0:
            return f"{value // factor} {unit}"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else _shown(value)


PAGES: Final = {"metrics.md": metrics_page, "options.md": options_page}


def main(arguments: list[str]) -> int:
    """Write or check every page; return the exit status."""
    is_check = arguments == ["--check"]
    if arguments and not is_check:
        print(__doc__, file=sys.stderr)
        return 2
    status = 0
    for name, make in PAGES.items():
        path = ROOT / "docs" / name
        text = make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if is_check:
            print(f"docs/{name} is out of date: run ./dev fmt", file=sys.stderr)
            status = 1
        else:
            path.write_text(text, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
