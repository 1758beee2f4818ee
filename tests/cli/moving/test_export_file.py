"""The file that `tinykv export` writes: its bytes, and what is noticed when they are not as they were."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from pytinykv.cli.moving.export_file import (
    End,
    ExportFileError,
    ExportWriter,
    Header,
    RawRows,
    Record,
    Survey,
    Surveyor,
    TransactionRows,
    read_blocks,
)

HEADER = Header(
    export_id=bytes(range(16)),
    source="cluster 7",
    program="pytinykv 0.1.0",
    created_s=1_700_000_000,
    ts=5 << 18,
    families=("default",),
    start=b"",
    end=b"",
)
TRANSACTIONAL = TransactionRows([(b"a", b"1"), (b"b", b"")])
RAW = RawRows("default", [(b"k", b"v", 0), (b"t", b"w", 1_800_000_000)])

GOLDEN = (
    "544b5658 01440000 00a8a50e 72010198 c4100001 02030405 06070809 0a0b0c0d 0e0fa963 6c757374 65722037 ae707974 "
    "696e796b 7620302e 312e30ce 6553f100 ce001400 0091a764 65666175 6c74c400 c4001000 000010d7 9cc30201 919292c4 "
    "0161c401 3192c401 62c4001f 000000d8 69b2e503 0192a764 65666175 6c749293 c4016bc4 01760093 c40174c4 0177ce6b "
    "49d20004 0000005f 68deed04 01920202"
)
"""HEADER, TRANSACTIONAL, RAW and the end."""


def written(path: Path, *records: Record) -> Path:
    with ExportWriter(path) as writer:
        for record in records:
            writer.write(record)
        writer.finish()
    return path


def survey(path: Path) -> Survey:
    surveyor = Surveyor(path)
    for _ in surveyor.steps():
        pass
    return surveyor.survey()


def test_the_bytes_of_a_small_export(tmp_path: Path) -> None:
    path = written(tmp_path / "small", HEADER, TRANSACTIONAL, RAW)
    assert path.read_bytes().hex(" ", -4) == GOLDEN


def test_what_a_whole_file_has_in_it(tmp_path: Path) -> None:
    path = written(tmp_path / "whole", HEADER, TRANSACTIONAL, TransactionRows([(b"c", b"3")]), RAW)
    assert survey(path) == Survey(HEADER, End(3, 2), {None: (b"a", b"c"), "default": (b"k", b"t")}, 3)


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", HEADER, TRANSACTIONAL, RAW).read_bytes()
    cut = tmp_path / "cut"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ExportFileError, match="cut"):
            survey(cut)


def test_a_changed_byte_anywhere_is_noticed(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", HEADER, TRANSACTIONAL, RAW).read_bytes()
    changed = tmp_path / "changed"
    for index in range(len(whole)):
        changed.write_bytes(whole[:index] + bytes([whole[index] ^ 0x41]) + whole[index + 1 :])
        with pytest.raises(ExportFileError):
            survey(changed)


def test_a_block_that_is_lost_repeated_or_moved_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "whole", HEADER, TRANSACTIONAL, TransactionRows([(b"c", b"3")]), RAW)
    whole = path.read_bytes()
    with path.open("rb") as file:
        ends = [5] + [block.end_offset for block in read_blocks(file, "")]
    blocks = [whole[start:end] for start, end in pairwise(ends)]
    assert b"".join(blocks) == whole[5:]
    lost = blocks[:1] + blocks[2:]
    repeated = blocks[:2] + blocks[1:]
    moved = [blocks[0], blocks[2], blocks[1], *blocks[3:]]
    for several in (lost, repeated, moved, blocks[:-1], [*blocks, blocks[-1]]):
        other = tmp_path / "other"
        other.write_bytes(whole[:5] + b"".join(several))
        if several == [*blocks, blocks[-1]]:
            assert survey(other).end == End(3, 2), "what follows the end is no block of this file"
            continue
        with pytest.raises(ExportFileError, match="damaged"):
            survey(other)


def test_rows_that_the_end_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "miscounted"
    with ExportWriter(path) as writer:
        for record in (HEADER, TRANSACTIONAL, RAW):
            writer.write(record)
        writer.raw_rows = 7
        writer.finish()
    with pytest.raises(ExportFileError, match="2 transactional and 2 raw rows where its end says 2 and 7"):
        survey(path)


def test_an_interrupted_export_is_carried_on_wherever_it_was_cut(tmp_path: Path) -> None:
    records = (HEADER, TRANSACTIONAL, RAW)
    whole = written(tmp_path / "whole", *records).read_bytes()
    for length in range(len(whole) + 1):
        path = tmp_path / f"again-{length}"
        path.with_name(path.name + ".part").write_bytes(whole[:length])
        with ExportWriter(path) as writer:
            left = writer.left()
            rows = 0 if left is None else left.transaction_rows + left.raw_rows
            assert left is None or left.header == HEADER
            assert (rows == 0) is (left is None or left.last_key is None)
            for record in records[0 if left is None else 1 + rows // 2 :]:
                writer.write(record)
            writer.finish()
        assert path.read_bytes() == whole
        assert not path.with_name(path.name + ".part").exists()


def test_a_part_that_is_no_export_is_left_alone(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(b"my diary")
    with ExportWriter(tmp_path / "x") as writer, pytest.raises(ExportFileError, match=r"x\.part is no export"):
        writer.left()
    assert part.read_bytes() == b"my diary"


def test_a_file_is_not_written_twice_nor_by_two(tmp_path: Path) -> None:
    path = tmp_path / "one"
    with ExportWriter(path), pytest.raises(ExportFileError, match="being written by another process"):
        ExportWriter(path)
    written(path, HEADER)
    with pytest.raises(ExportFileError, match="exists already"):
        ExportWriter(path)
