"""Where logs go, and in which form."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pytinykv.cli.logs import log_options, logs


@click.command()
@log_options("info")
def probe() -> None:
    logger = logging.getLogger("pytinykv.probe")
    logger.info("started with %s", "data")
    logger.debug("details")
    try:
        raise ValueError("no room")
    except ValueError:
        logger.exception("failed")


def test_lines_for_people_go_to_standard_error() -> None:
    result = CliRunner().invoke(probe)
    assert result.exit_code == 0
    first, second, *_ = result.stderr.splitlines()
    assert first.endswith(" INFO    pytinykv.probe: started with data")
    assert second.endswith(" ERROR   pytinykv.probe: failed")
    assert "ValueError: no room" in result.stderr
    assert result.stdout == ""


def test_an_object_a_line_into_a_file(tmp_path: Path) -> None:
    file = tmp_path / "store.log"
    result = CliRunner().invoke(probe, ["--log-format", "json", "--log-file", str(file), "--log-level", "debug"])
    assert (result.exit_code, result.stderr) == (0, "")
    first, second, third = map(json.loads, file.read_text().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("INFO", "pytinykv.probe", "started with data")
    assert first["time"].endswith("+00:00")
    assert second["message"] == "details"
    assert third["exception"].splitlines()[-1] == "ValueError: no room"
    assert "exception" not in first


def test_a_file_that_was_moved_away_is_opened_again(tmp_path: Path) -> None:
    file = tmp_path / "store.log"
    with logs("info", "text", file):
        logging.getLogger("pytinykv.probe").info("one")
        file.rename(tmp_path / "store.log.1")
        logging.getLogger("pytinykv.probe").info("two")
    assert file.read_text().endswith("two\n")
    assert (tmp_path / "store.log.1").read_text().endswith("one\n")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(probe, ["--log-file", str(tmp_path / "none" / "store.log")])
    assert result.exit_code == 2
    assert "--log-file" in result.output
    assert "No such file or directory" in result.output


def test_logging_is_as_before_at_the_end() -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    with pytest.raises(RuntimeError), logs("error", "json", None):
        raise RuntimeError
    assert (root.level, list(root.handlers)) == before
