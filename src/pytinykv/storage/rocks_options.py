"""RocksDB's options, tuned for a store process that stays small: see `RocksConfig` for what each figure does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import rocksdict

from pytinykv.storage.engine import ColumnFamily

_KIB: Final = 1024
_MIB: Final = 1024 * 1024
_COMPRESSED_FROM_LEVEL: Final = 2
_LEVELS: Final = 7
_NEVER: Final = 1 << 30
"""A number of memtables or files that is not reached."""


@dataclass(frozen=True, kw_only=True)
class RocksConfig:
    """How much memory and disk traffic the engine may use."""

    block_cache_bytes: int = 48 * _MIB
    """Cache of decompressed blocks, indexes and filters, shared by all column families."""
    write_buffers_bytes: int = 24 * _MIB
    """All memtables together; at this size the biggest is flushed."""
    write_buffer_bytes: int = 8 * _MIB
    """One memtable; at this size it becomes an SST file."""
    unflushed_bytes_max: int = 48 * _MIB
    """All memtables together that are not in SST files yet; beyond it a write is held back."""
    hold_back_max_s: float = 1.0
    """How long one write is held back at most while flushes or compactions lag behind; the caller waits meanwhile."""
    wal_bytes_max: int = 32 * _MIB
    """Write-ahead logs together; bounds the time that recovery takes."""
    open_files_max: int = 256
    """SST files kept open at once."""
    background_jobs: int = 2
    """Threads for flushes and compactions."""


class RocksOptions:
    """The option objects for one database. They share one block cache and one write buffer manager."""

    def __init__(self, config: RocksConfig) -> None:
        self.config = config
        self.cache = rocksdict.Cache(config.block_cache_bytes)
        self.write_buffers = rocksdict.WriteBufferManager(config.write_buffers_bytes, False)
        self.database = _database_options(config, self.write_buffers)
        self.column_families = {cf.value: _family_options(config, cf, self.cache) for cf in ColumnFamily}


def _database_options(config: RocksConfig, write_buffers: rocksdict.WriteBufferManager) -> rocksdict.Options:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_manager(write_buffers)
    options.set_max_total_wal_size(config.wal_bytes_max)
    options.set_max_open_files(config.open_files_max)
    options.set_max_background_jobs(config.background_jobs)
    # A torn record at the end of the log is what a crash leaves behind; anything else is damage, and reported.
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_paranoid_checks(True)
    options.set_bytes_per_sync(_MIB)
    options.set_skip_stats_update_on_db_open(True)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_max_log_file_size(_MIB)
    options.set_keep_log_file_num(3)
    options.set_max_manifest_file_size(4 * _MIB)
    options.set_manifest_preallocation_size(64 * _KIB)
    return options


def _family_options(config: RocksConfig, cf: ColumnFamily, cache: rocksdict.Cache) -> rocksdict.Options:
    options = rocksdict.Options(raw_mode=True)
    options.set_block_based_table_factory(_table_options(cache))
    options.set_write_buffer_size(config.write_buffer_bytes)
    # RocksDB never holds a write back by itself, as it may do so for ever: see `rocks_backlog.py`.
    options.set_max_write_buffer_number(_NEVER)
    options.set_level_zero_slowdown_writes_trigger(_NEVER)
    options.set_level_zero_stop_writes_trigger(_NEVER)
    options.set_soft_pending_compaction_bytes_limit(0)
    options.set_hard_pending_compaction_bytes_limit(0)
    # Well below the write buffer: a memtable whose first arena block fills it would be flushed after every write.
    options.set_arena_block_size(min(256 * _KIB, config.write_buffer_bytes // 8))
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_target_file_size_base(16 * _MIB)
    options.set_max_bytes_for_level_base(64 * _MIB)
    options.set_num_levels(_LEVELS)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    none, lz4 = rocksdict.DBCompressionType.none(), rocksdict.DBCompressionType.lz4()
    levels = [none] * _COMPRESSED_FROM_LEVEL + [lz4] * (_LEVELS - _COMPRESSED_FROM_LEVEL)
    options.set_compression_per_level([none] * _LEVELS if cf is ColumnFamily.RAFT else levels)
    return options


def _table_options(cache: rocksdict.Cache) -> rocksdict.BlockBasedOptions:
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_block_size(8 * _KIB)
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)
    table.set_checksum_type(rocksdict.ChecksumType.xxh3())
    return table
