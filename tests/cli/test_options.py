"""Where values come from: flag, then environment, then file, then default."""

from __future__ import annotations

import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from pytinykv.cli import main
from pytinykv.cli.config_file import CONFIG_EXAMPLE, client_config_option, component_settings, config_option
from pytinykv.cli.options import option, scheduler_option
from pytinykv.cli.serving import component
from pytinykv.raftstore import RaftStoreConfig


@click.command("store")
@option("--addr", default="default")
@option("--insecure", is_flag=True)
@config_option
@click.pass_context
def probe(context: click.Context, addr: str, *, insecure: bool) -> None:
    click.echo(f"{addr} {insecure} {component_settings(context, 'raftstore')}")


@click.command("scan")
@option("--limit", type=int, default=None)
@scheduler_option(default="127.0.0.1:1")
@client_config_option
def client_probe(limit: int | None, scheduler: tuple[str, ...]) -> None:
    click.echo(f"{limit} {','.join(scheduler)}")


def invoke(command: click.Command, tmp_path: Path, file: str, *arguments: str, **variables: str) -> Result:
    path = tmp_path / "tinykv.toml"
    path.write_text(file, encoding="utf-8")
    return CliRunner(env=variables).invoke(command, ["--config", str(path), *arguments])


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = '[store]\naddr = "file"\n'
    assert invoke(probe, tmp_path, file, "--addr", "flag", TINYKV_ADDR="environment").output.startswith("flag ")
    assert invoke(probe, tmp_path, file, TINYKV_ADDR="environment").output.startswith("environment ")
    assert invoke(probe, tmp_path, file).output.startswith("file ")
    assert invoke(probe, tmp_path, "").output.startswith("default ")


def test_the_file_itself_can_come_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "tinykv.toml"
    path.write_text('[store]\naddr = "file"\n', encoding="utf-8")
    assert CliRunner(env={"TINYKV_CONFIG": str(path)}).invoke(probe).output.startswith("file ")


def test_switches_and_tables_of_components(tmp_path: Path) -> None:
    result = invoke(probe, tmp_path, "[store]\ninsecure = true\n[store.raftstore]\ntick_s = 0.05\n")
    assert result.output == "default True {'tick_s': 0.05}\n"


def test_the_client_table_holds_for_all_client_commands_and_a_command_table_wins(tmp_path: Path) -> None:
    shared = '[client]\nscheduler = "127.0.0.1:2"\ncf = "lock"\n'
    assert invoke(client_probe, tmp_path, shared).output == "None 127.0.0.1:2\n"
    own = shared + '[scan]\nlimit = 3\nscheduler = "127.0.0.1:3,127.0.0.1:4"\n'
    assert invoke(client_probe, tmp_path, own).output == "3 127.0.0.1:3,127.0.0.1:4\n"


def test_the_client_table_is_not_for_servers(tmp_path: Path) -> None:
    assert invoke(probe, tmp_path, '[client]\nscheduler = "x"\n').output.startswith("default ")


def test_options_are_spelt_as_the_flags(tmp_path: Path) -> None:
    path = tmp_path / "tinykv.toml"
    path.write_text('[client]\nhex = true\nlog-level = "info"\n[status]\njson = true\n', encoding="utf-8")
    result = CliRunner().invoke(main, ["get", "key", "--config", str(path)])
    assert "'key' is not hexadecimal" in result.output
    assert CliRunner().invoke(main, ["status", "--config", str(path), "--timeout", "x"]).exit_code == 2


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ('[store]\nadr = "x"\n', "[store] has no option 'adr'; it can have addr, insecure"),
        ("[stoer]\n", "the table [stoer] is not known"),
        ('addr = "x"\n', "'addr', which stands in no table, is not known"),
        ("\n# a\n[store]\n\ninsecure = true\nadr = 'x' # b\n", "line 6 (adr = 'x' # b): [store] has no option 'adr'"),
        ("[client]\n[store]\n[stoer]\naddr = 'y'\n", "line 3 ([stoer]): the table [stoer] is not known"),
        ("[store]\n[store.rafstore]\n", "line 2 ([store.rafstore]): [store.rafstore] is"),
        ("[store]\naddr = 'a'\naddr = 'b'\n", "at line 3, column"),
        ("[store.rafstore]\n", "[store.rafstore] is not known; it can have raftstore"),
        ("[store]\naddr = [1, 2]\n", "[store] addr must be a single value, not [1, 2]"),
        ("store = 1\n", "store must be a table"),
        ("[store\n", "is not valid TOML"),
    ],
)
def test_an_unknown_setting_is_an_error_that_names_it(tmp_path: Path, file: str, message: str) -> None:
    result = invoke(probe, tmp_path, file)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "tinykv.toml" in result.output


def test_unknown_client_option_in_the_file(tmp_path: Path) -> None:
    result = invoke(client_probe, tmp_path, "[client]\nshceduler = 1\n")
    assert result.exit_code == 2
    assert "[client] has no option 'shceduler'" in result.output


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(probe, ["--config", str(tmp_path / "none.toml")])
    assert result.exit_code == 2
    assert "none.toml: No such file or directory" in result.output


def test_a_bad_value_from_the_environment_names_the_variable() -> None:
    result = CliRunner(env={"TINYKV_LIMIT": "many"}).invoke(client_probe)
    assert result.exit_code == 2
    assert "TINYKV_LIMIT" in result.output
    assert "'many'" in result.output


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("[store]\n[store.raftstore]\ntick = 1\n", "line 3 (tick = 1): [store.raftstore] has no setting"),
        ("[store.raftstore]\n\ntick_s = -1.0\n", "line 3 (tick_s = -1.0): [store.raftstore] tick_s must be"),
        ('[store.raftstore]\ntick_s = "fast"\n', 'line 2 (tick_s = "fast"): [store.raftstore] Expected'),
        ("[store.raftstore]\ntick = 1\n", "[store.raftstore] has no setting 'tick'; it can have"),
        ("[store.raftstore]\ntick_s = -1.0\n", "[store.raftstore] tick_s must be positive, not -1.0"),
        ('[store.raftstore]\ntick_s = "fast"\n', "[store.raftstore] Expected `float`, got `str`"),
    ],
)
def test_settings_of_a_component_are_checked(tmp_path: Path, file: str, message: str) -> None:
    path = tmp_path / "tinykv.toml"
    path.write_text(file, encoding="utf-8")
    needed = ["--data-dir", str(tmp_path / "data"), "--addr", "127.0.0.1:0", "--scheduler", "127.0.0.1:1"]
    result = CliRunner().invoke(main, ["store", *needed, "--config", str(path)])
    assert result.exit_code == 2
    assert message in result.output


STORE = ("--data-dir", "d", "--scheduler", "h:1", "--addr")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["get"], "Missing argument 'KEY'"),
        (["get", ""], "KEY: key is empty"),
        (["get", "k" * 9000], "KEY: key is too long: 9000 bytes, at most 8192"),
        (["get", "k", "--scheduler", "::1:2379"], "write host:port, as in [::1]:2379"),
        (["get", "k", "--scheduler", "h:99999"], "'h:99999' is not an address"),
        (["get", "k", "--timeout", "0"], "0.0 is not in the range x>0"),
        (["get", "k", "--timeout", "soon"], "'soon' is not a valid number"),
        *((["get", "k", "--timeout", text], f"'--timeout': {text} is no number") for text in ("nan", "inf")),
        (["scheduler", "--data-dir", "d", "--addr", "127.0.0.1:0", "--gc-life-time", "inf"], "'--gc-life-time': inf"),
        (["get", "k", "--scheduler", "::1"], "write host:port, as in [::1]:2379"),
        (["get", "k", "--config", "no-such.toml"], "Invalid value for '--config': can't read no-such.toml"),
        (["scheduler", "--data-dir", "", "--addr", "127.0.0.1:0"], "'--data-dir': it is empty"),
        (["scheduler", "--data-dir", "d", "--addr", ""], "'--addr': '' is not an address"),
        (["scheduler", "--data-dir", "d", "--addr", "[::1]"], "it has no port; write host:port, as in [::1]:2379"),
        (["store", *STORE, "kv-1"], "it has no port; write host:port, as in kv-1:20160"),
        (["store", *STORE, "127.0.0.1:7", "--peer-addr", "127.0.0.1:7"], "--addr and --peer-addr are the same"),
        (["bench", "--scheduler", "a/b"], "'--scheduler': scheduler address 'a/b' is not an address"),
        (["bench", "--plot", "bench.gif"], "'--plot': bench.gif must end in .png or .svg or .pdf"),
        *(
            (
                [*command, "/no-such-dir/file.png"],
                "can't write /no-such-dir/file.png: there is no directory /no-such-dir",
            )
            for command in (["bench", "--plot"], ["bench", "--save"], ["sim", "--timeline"], ["export"])
        ),
        (["import", "no-such-file"], "File 'no-such-file' does not exist"),
        (["sim", "--with", "floods"], "Invalid value for --with: there is no kind of fault 'floods'"),
        (["get", "k", "--cf", "raft"], "'raft' is not one of 'default', 'lock', 'write'"),
        (["get", "xyz", "--hex"], "KEY: 'xyz' is not hexadecimal"),
        (["put", "k"], "Missing argument 'VALUE'"),
        (["put", "6b", "v", "--hex"], "VALUE: 'v' is not hexadecimal"),
        (["put", "k", "v", "--ttl", "-1"], "-1 is not in the range 1<=x<=3153600000"),
        (["delete", ""], "KEY: key is empty"),
        (["scan", "--limit", "-1"], "-1 is not in the range x>=0"),
        (["scan", "a", "--prefix", "b"], "give either --prefix or START and END"),
        (["scan", "b", "a"], "START (b) is not below END (a)"),
        (["store", "--data-dir", "d", "--addr", "here", "--scheduler", "h:1"], "'here' is not an address"),
        (["store", "--data-dir", "d", "--addr", "0.0.0.0:1", "--scheduler", "h:1"], "--addr: refusing to listen on"),
        (["store", "--data-dir", "d", "--addr", "127.0.0.1:0"], "Missing option '--scheduler'"),
        (
            ["scheduler", "--data-dir", "d", "--addr", "127.0.0.1:0", "--status-addr", "::"],
            "'--status-addr': '::' is not an address; write host:port, as in [::]:2379",
        ),
        (
            ["scheduler", "--data-dir", "d", "--addr", "127.0.0.1:0", "--advertise-addr", "h:0"],
            "--advertise-addr: h:0 can't be reached",
        ),
        (
            ["store", *STORE, "127.0.0.1:0", "--advertise-peer-addr", "0.0.0.0:20170"],
            "--advertise-peer-addr: 0.0.0.0:20170 can't be reached by others",
        ),
        (["store", *STORE, "0.0.0.0:20160", "--insecure"], "--addr: 0.0.0.0:20160 is every address of this machine"),
        *(
            (["store", *STORE, "127.0.0.1:0", option, text], f"'{option}': {text!r} ")
            for option in ("--advertise-addr", "--advertise-peer-addr", "--status-addr", "--peer-addr")
            for text in ("https://127.0.0.1:1", "no host at all/x?:1", "::1:23160", "kv-1")
        ),
        (["scheduler", "--data-dir", "d", "--addr", "http://0.0.0.0:1"], "--addr: refusing to listen on 0.0.0.0:1"),
        (["scheduler", "--data-dir", "d", "--addr", "[::]:1", "--insecure"], "say --advertise-addr HOST:PORT"),
        (["playground", "--stores", "0"], "0 is not in the range 1<=x<=99"),
        (["playground", "--scheduler-addr", "0.0.0.0:2379"], "--scheduler-addr: refusing to listen on 0.0.0.0:2379"),
    ],
)
def test_bad_input_is_named_with_status_2(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output


@pytest.mark.parametrize("value", ["::1:2379", "grpc://h"])
def test_a_bad_value_is_said_to_come_from_where_it_came_from(tmp_path: Path, value: str) -> None:
    def complaint(*arguments: str, **variables: str) -> str:
        result = CliRunner(env=variables).invoke(main, ["get", "k", *arguments])
        assert result.exit_code == 2
        return " ".join(result.output.split())

    path = tmp_path / "tinykv.toml"
    path.write_text(f'[client]\nscheduler = "{value}"\n', encoding="utf-8")
    assert "Invalid value for '--scheduler': scheduler address" in complaint("--scheduler", value)
    assert "Invalid value for '--scheduler' (from the variable TINYKV_SCHEDULER): " in complaint(TINYKV_SCHEDULER=value)
    assert f"Invalid value for '--scheduler' (from {path}, line 2 (scheduler = " in complaint("--config", str(path))


def test_the_example_in_the_help_is_a_file_that_servers_take(tmp_path: Path) -> None:
    document = tomllib.loads(CONFIG_EXAMPLE)
    assert sorted(document) == ["client", "scheduler", "store"]
    file = tmp_path / "tinykv.toml"
    file.write_text(CONFIG_EXAMPLE.replace("/var/lib/tinykv", str(tmp_path)))
    for command in ("store", "scheduler", "get k"):
        done = CliRunner().invoke(main, [*command.split(), "--config", str(file), "--log-level", "loud"])
        assert "'loud' is not one of" in done.output, "everything in the file was taken before"
    assert "expiry_pause_s = 60" in CliRunner().invoke(main, ["store", "--help"]).output
    config = component(RaftStoreConfig, document["store"]["raftstore"], "store.raftstore")
    assert config.expiry_pause_s == 60


def test_a_bad_value_in_the_file_is_shown_with_its_line(tmp_path: Path) -> None:
    result = invoke(client_probe, tmp_path, '[client]\ncf = "lock"\n[scan]\nlimit = "many"\n')
    assert result.exit_code == 2
    assert "tinykv.toml, line 4 (limit" in " ".join(result.output.split())
