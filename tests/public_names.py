"""A user's program with every public name: mypy must know each of them, and no others."""

from __future__ import annotations

import tapestream
import tapestream.archive as archives
import tapestream.backend as backends
import tapestream.ovirt as engines
import tapestream.tape as tapes
import tapestream.testing as tests

NAMES: tuple[object, ...] = (
    tapestream.BackupInfo,
    tapestream.BlockHash,
    tapestream.Cancel,
    tapestream.CompareReport,
    tapestream.CopyResult,
    tapestream.CopySample,
    tapestream.CopyStatus,
    tapestream.Damage,
    tapestream.DiscardSink,
    tapestream.Extent,
    tapestream.Extents,
    tapestream.Findings,
    tapestream.ImageioHTTPSource,
    tapestream.ImageioUploadSink,
    tapestream.Kind,
    tapestream.OperationCancelledError,
    tapestream.RateLimit,
    tapestream.RawImageSink,
    tapestream.RawImageSource,
    tapestream.Reader,
    tapestream.Sink,
    tapestream.Source,
    tapestream.TapestreamError,
    tapestream.TarStreamSink,
    tapestream.TarStreamSource,
    tapestream.VerifyReport,
    tapestream.Writer,
    tapestream.compare,
    tapestream.copy,
    tapestream.merge_chain,
    tapestream.restore_chain,
    tapestream.verify,
    archives.Archive,
    archives.Chain,
    archives.FileBackup,
    archives.RestorePoint,
    archives.Skipped,
    archives.StoredBackup,
    archives.TapeBackup,
    archives.file_name,
    archives.read_catalog,
    archives.read_folder,
    backends.Cancels,
    backends.ChecksEnd,
    backends.ChecksItself,
    backends.CoalescesZeros,
    backends.Digests,
    backends.FindsMissing,
    backends.Flushes,
    backends.ForwardingReader,
    backends.ForwardingSink,
    backends.ForwardingSource,
    backends.ForwardingWriter,
    backends.HasDigests,
    backends.HasLocalServer,
    backends.HasPieceSize,
    backends.HasPlace,
    backends.HasReadOrder,
    backends.Hash,
    backends.HoldsDevice,
    backends.KeepsAlive,
    backends.LendsMemory,
    backends.LosesWrites,
    backends.Prefetches,
    backends.Reader,
    backends.Rewinds,
    backends.Salvages,
    backends.SkipsGaps,
    backends.Sink,
    backends.SinkLike,
    backends.Source,
    backends.SourceLike,
    backends.Streams,
    backends.TakesDigests,
    backends.Wraps,
    backends.Writer,
    backends.ability,
    engines.EngineConnection,
    engines.EngineSettings,
    engines.EngineTimeouts,
    engines.Transfer,
    engines.connect,
    engines.read_settings,
    tapes.Catalog,
    tapes.CatalogBackup,
    tapes.CatalogVolume,
    tapes.Command,
    tapes.DeviceStatus,
    tapes.Flag,
    tapes.StDevice,
    tapes.TapeDevice,
    tapes.TapeDrive,
    tapes.TapeEntry,
    tapes.TapeLabel,
    tapes.TapePlace,
    tapes.TapeReport,
    tapes.TapeStatus,
    tapes.VolumeRequest,
    tests.Cartridge,
    tests.ContractReport,
    tests.DiskDouble,
    tests.EngineCall,
    tests.EngineDouble,
    tests.EngineLeftovers,
    tests.EnginePhases,
    tests.FakeDrive,
    tests.ImageServer,
    tests.ImageioDaemon,
    tests.MemorySink,
    tests.MemorySource,
    tests.Pattern,
    tests.VmDouble,
    tests.check_sink,
    tests.check_source,
    tests.compare_images,
    tests.create_image,
    tests.image_info,
    tests.serve_image,
    tests.sink_checks,
    tests.source_checks,
    tests.virtual_size,
    tests.write_pattern,
)


def copy_disk(url: str) -> int:
    with tapestream.ImageioHTTPSource(url) as src, tapestream.TarStreamSink("disk.tar") as dst:
        return tapestream.copy(src, dst).data_bytes


def is_of_a_tape(error: tapestream.TapestreamError) -> bool:
    return isinstance(error, tapestream.errors.TapeError)


def label_of(drive: tapestream.tape.TapeDrive) -> str | None:
    return drive.label


def use_an_unknown_name() -> object:
    return tapestream.no_such_name  # type: ignore[attr-defined]
