"""TapeDrive, the public class: winds a tape, finds and labels what is on it, and gives turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

from .._log import Log
from .._process import OfThisProcess
from .._typing import Unpack
from ..arguments import flag
from ..backend.closing import Closing
from ..cancel import Cancel, check_cancel
from ..drive.lease import FairLock, Lease
from ..drive.opening import OpenDevice
from ..drive.position import PositionedDrive
from ..drive.status import TapeStatus
from ..errors import (
    BlockSizeError,
    NoMediumError,
    PositionLostError,
    TapeError,
    UsageError,
    WrongTapeError,
)
from ..model.info import BackupFilter, describe
from .contents import TapeContents
from .label import label_record, new_label, remembered_label
from .report import TapeLabel
from .scan import TapeEntry, first_label, is_empty, nothing, scan
from .search import check_search, search

log = Log("tapestream.tape")


class TapeDrive(OfThisProcess, Closing):
    """A tape drive, by its no-rewind device.

    The tape stays where it was left; nothing is rewound unless you ask for it. Only one thread at a
    time may position, read or write it. Backups and restores in several threads take turns, each
    for one whole tape file, first come, first served.

    The device is opened when it is first needed. While it is open, no other program can use the
    drive (the driver reports "busy"). If the permissions allow it, its SCSI generic device /dev/sgN
    is kept closed to others, too. `release` closes both until the next use.

    The drive is asked for the position of the tape before anything is written after an error, and
    before more than 1 MiB is written since it was last asked. If the tape is not where we left it,
    `PositionLostError` is raised and nothing more is written. A drive that was reset can be used
    again after `rewind`.

    Args:
        path: Path of the device, such as "/dev/nst0" or one in /dev/tape/by-id.
        open_device: Opens the device, for drivers other than Linux's `st`; None for `st`.

    Raises:
        NotATapeError: There is no such device, or it is not a tape.

    Attributes:
        path: Path of the device.
        raw: The drive at the level of blocks, records and filemarks, which sinks and sources use.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, open_device: OpenDevice | None = None
    ) -> None:
        self.raw = PositionedDrive(path, open_device=open_device)
        self.path = self.raw.path
        # Gives turns; a `Lease` holds one.
        self.lock = FairLock(self.path)

    def __repr__(self) -> str:
        path = getattr(self, "path", "without a path")  # the constructor may have failed
        return f"<TapeDrive {path}>"

    # The drive and its cartridge

    def status(self) -> TapeStatus:
        """The state of the drive, without waiting; this also works without a cartridge.

        Raises:
            TapeError: The device cannot be opened, or does not answer.
        """
        return self.raw.status()

    def wait_ready(
        self,
        timeout: float | None = None,
        *,
        on_wait: Callable[[float], object] | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        """Wait until a cartridge is loaded and ready.

        Args:
            timeout: Seconds to wait at most; None for no limit. The first load of a blank LTO-9
                cartridge can take two hours.
            on_wait: Called about once a second with the seconds waited so far; it may raise to end
                the wait.
            cancel: Ends the wait.

        Raises:
            NoMediumError: The drive was not ready in time.
            OperationCancelledError: The wait was cancelled.
            TapeError: The device cannot be opened.
        """
        self.raw.wait_ready(timeout, on_wait=on_wait, check=check_of(cancel))

    def load(self) -> None:
        """Load the cartridge in the drive again, after `eject`; it then stands at its beginning."""
        self.raw.load()

    def eject(self) -> None:
        """Rewind and unload the cartridge."""
        self.raw.eject()

    @property
    def block_size(self) -> int:
        """Size of all blocks in bytes; 0 in variable mode."""
        return self.raw.block_size

    def set_block_size(self, size: int) -> None:
        """Set fixed mode, with blocks of this many bytes; 0 sets variable mode, the usual one.

        The drive keeps this setting. In fixed mode, the record size must be a multiple of the block
        size.
        """
        self.raw.set_block_size(size)

    # Winding

    def rewind(self) -> None:
        """Go to the beginning of the tape. After this, a drive that was reset can be used again."""
        self.raw.rewind()

    def end_of_data(self) -> None:
        """Go to the end of everything that was written, where the next backup begins.

        Raises:
            PositionLostError: The drive was reset, or has another tape. Rewind it.
            TapeError: The drive failed.
        """
        self.raw.end_of_data()

    def go_to_file(self, file: int) -> None:
        """Go to the beginning of a tape file, by its number from 0.

        Raises:
            UsageError: `file` is not a number from 0.
            WrongTapeError: The tape has no such file.
            TapeError: The drive failed.
        """
        try:
            self.raw.go_to_file(file)
        except TapeError as e:
            status = self.status()
            if not status.at_end_of_data or status.file is None:
                raise
            label = f"tape {self.label}" if self.label else "its tape"
            raise WrongTapeError(
                f"{self.path}: {label} has {status.file} files, and none with number {file}"
            ) from e

    def erase(self) -> None:
        """Erase everything from here to the end of the tape; this takes hours on many drives."""
        self.raw.erase()

    # What is on the tape

    @property
    def label(self) -> str | None:
        """The tape's name; None if it has no label, or it was not read since the drive was opened.

        A sink, `scan`, `find` and `read_label` read the label.
        """
        return self.tape_label.name if self.tape_label else None

    @property
    def tape_label(self) -> TapeLabel | None:
        """The tape's label; None if it has none, or it was not read since the drive was opened."""
        return remembered_label(self.raw)

    def scan(self, *, cancel: Cancel | None = None) -> Iterator[TapeEntry]:
        """Look at every tape file, from the beginning of the tape; see `TapeEntry`.

        Each file takes two short reads and some winding. This keeps the drive until the last entry,
        or until the iterator is closed. The tape then stands after the last entry that was yielded.

        Args:
            cancel: Ends the scan, and the wait for a turn. A command of the drive cannot be
                interrupted: the scan ends after the current command, such as winding past one
                tape file. The tape may then be at any position.

        Raises:
            BlockSizeError: The drive is in fixed mode, and the tape has blocks of another size.
            OperationCancelledError: The scan was cancelled.
            TapeError: The drive failed.
        """
        check = check_of(cancel)
        with turn_to_scan(self, cancel):
            yield from scan(self.raw, check)

    def contents(self, *, cancel: Cancel | None = None) -> TapeContents:
        """Look at every tape file, and return what is on the tape.

        A notebook shows that as a picture.

        Args:
            cancel: Ends the scan, as for `scan`.

        Raises:
            BlockSizeError: The drive is in fixed mode, and the tape has blocks of another size.
            OperationCancelledError: The scan was cancelled.
            TapeError: The drive failed.
        """
        return TapeContents(tuple(self.scan(cancel=cancel)))

    def find(
        self,
        *,
        incomplete: bool = False,
        cancel: Cancel | None = None,
        **ids: Unpack[BackupFilter],
    ) -> list[TapeEntry]:
        """Find backups that begin on this tape.

        Args:
            incomplete: True to include incomplete ones: aborted backups, and first volumes that
                were cut off by the end of the tape.
            cancel: Ends the search, as for `scan`.
            ids: Only backups with these: `vm_id`, `disk_id`, `backup_id`, `checkpoint_id`.

        Returns:
            The backups, newest first; of several attempts at one backup, complete ones come first.

        Raises:
            UsageError: There is no such argument.
            OperationCancelledError: The search was cancelled.
            TapeError: The drive failed.
        """
        check_search(ids, incomplete)
        entries = list(self.scan(cancel=cancel))
        for entry in entries:
            if entry.is_unknown:
                log.warning(
                    "%s: tape file %d is not looked at: %s", self.path, entry.file, entry.problem
                )
        begins_here = [entry for entry in entries if entry.volume == 1]
        return search(begins_here, ids, lambda entry: entry.file, incomplete=incomplete)

    def read_label(self) -> str | None:
        """Rewind and read the tape's label; None if it has none. The tape may stand anywhere then.

        Raises:
            BlockSizeError: The drive is in fixed mode, and the tape has blocks of another size.
            UnreadableLabelError: It is not known whether the tape has a label.
            TapeError: The drive failed.
        """
        label = first_label(self.raw)
        return label.name if label else None

    def write_label(self, label: str, *, overwrite: bool = False) -> None:
        """Write a label as the first tape file; the tape then stands where the first backup begins.

        Args:
            label: The name of the tape, which should also be on its outside.
            overwrite: True to give up everything that is on the tape.

        Raises:
            UsageError: There is something on the tape.
            TapeError: The drive failed.
        """
        flag("overwrite", overwrite)
        label_record(TapeLabel(label))  # refuses a bad label before the tape is wound
        before = self._label_before()
        self.rewind()
        if not overwrite:
            self._check_blank()
        new = new_label(label, before)
        self.rewind()
        self.raw.write_record(memoryview(label_record(new, self.block_size)))
        self.raw.write_filemark()
        self.raw.remembered = new

    def _check_blank(self) -> None:
        for entry in scan(self.raw):
            if not is_empty(entry):
                what = f"the label {entry.label!r}" if entry.label else "something foreign"
                if entry.info is not None:
                    what = f"the backup of {describe(entry.info)}"
                elif entry.is_unknown:
                    what = "something that cannot be read"
                raise UsageError(
                    f"{self.path}: there is something on the tape: file {entry.file} is {what}",
                    hint="Pass overwrite=True to give up everything that is on the tape.",
                )

    def _label_before(self) -> TapeLabel | None:
        """The label that is about to be overwritten; None if there is none that can be read."""
        try:
            return first_label(self.raw)
        except BlockSizeError:
            fixed = self.block_size
            self.set_block_size(0)
            try:
                return self._label_before()
            finally:
                self.set_block_size(fixed)
        except (NoMediumError, PositionLostError):
            raise
        except TapeError as e:
            log.warning("the old label cannot be read: %s", e)
            return None

    # Whose turn it is

    def turn(self, *, cancel: Cancel | None = None) -> Lease[TapeDrive]:
        """A turn at the drive: `with tape.turn():` waits until nobody else uses it.

        First come, first served. Sinks, sources, `scan` and `find` take a turn themselves. `scan`
        and `find` also work in a turn that this thread has; sinks and sources do not.

        Args:
            cancel: Ends the wait.

        Raises:
            UsageError: At the beginning of the block, if this thread has the drive already.
            OperationCancelledError: At the beginning of the block, if the wait was cancelled.
        """
        return Lease(self, cancel)

    def release(self) -> None:
        """Close the device until it is needed again, so that other programs can use the drive.

        The tape stays where it is. If anything was written since the last filemark, a filemark is
        written first.

        Raises:
            TapeError: Something that was written may not be on the tape.
        """
        self.raw.release()

    def close(self) -> None:
        """Do the same as `release`. May be called more than once."""
        if hasattr(self, "raw"):  # its constructor may have failed
            self.release()


def turn_to_scan(drive: TapeDrive, cancel: Cancel | None = None) -> AbstractContextManager[object]:
    """A turn at a drive; a context manager that does nothing if this thread has it already."""
    return nullcontext() if drive.lock.is_mine else drive.turn(cancel=cancel)


def check_of(cancel: Cancel | None) -> Callable[[], object]:
    """A function that raises if a scan or a wait was cancelled."""
    check_cancel(cancel)
    return nothing if cancel is None else cancel.check
