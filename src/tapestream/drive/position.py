"""PositionedDrive: winds, reads and writes a tape, and checks its position before it writes."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress

from .._log import Log
from ..arguments import function, number
from ..arguments import path as checked_path
from ..errors import (
    EndOfTapeError,
    NoMediumError,
    PositionLostError,
    TapeError,
    UsageError,
    WriteProtectedError,
)
from .device import Command, Flag, StDevice, TapeDevice
from .opening import OpenDevice, open_tape, translated
from .paths import check_path
from .status import TapeStatus, tape_status

log = Log("tapestream.tape")

# Seconds between two checks whether a drive is ready. LTO takes 15 s to load a cartridge, and hours
# for the first load of a blank LTO-9 cartridge.
POLL_SECONDS = 1.0
# Seconds between two checks whether a wait was cancelled.
CHECK_SECONDS = 0.2
# Seconds. A drive needs 15 to 60 s to load a cartridge; the kernel also waits for two minutes.
LOAD_SECONDS = 120.0
# The driver's errors for a record that is too large for the drive or the host adapter.
_TOO_LARGE = (errno.EINVAL, errno.EBUSY)
# Positions that are not block numbers: moved by reading an unknown number of blocks, and unknown
# after an error.
_MOVED, _LOST = -1, -2
# More tape files than a tape has; the driver uses the same number.
_MOST_FILES = 0x7FFFFF
# The largest count that the driver accepts in a command.
_MOST = 2**31 - 1
# The drive is asked for its position before more than this many bytes are written, or delivered
# after reading. Even one record at a wrong place ends the tape there, and everything after it is
# lost. So we ask as often as we can afford: for every record of the usual size. MTIOCPOS is one
# READ POSITION command, which does not move the tape. A real drive (none was measured) needs the
# time of one command without data, and keeps writing from its buffer during that time; with the
# fastest, LTO-9 at 400 MB/s, 1 MiB lasts 2.5 ms. In the virtual machine of the tests, where every
# command is expensive, it took a fifth of the time of a record of 1 MiB, and two thirds of that of
# a record of 64 KiB: so we do not ask for every small record.
CHECK_BYTES = 1024**2
# These commands never move a tape backward.
_GOES_ON = frozenset(
    {Command.FORWARD_FILES, Command.FORWARD_RECORDS, Command.WRITE_FILEMARKS, Command.END_OF_DATA}
)
# After a reset, newer drivers accept only these commands, which end at a known place.
_FINDS_PLACE = frozenset({Command.REWIND, Command.SEEK, Command.END_OF_DATA})
# The driver counts the tape files that these pass; others make it count anew, or lose count.
_PASSES_FILES = frozenset({Command.FORWARD_FILES, Command.BACKWARD_FILES, Command.END_OF_DATA})
_FORGETS_COUNT = frozenset({Command.REWIND, Command.SEEK})
_SMALLER = "Pass a smaller record_size, or in fixed mode a multiple of the block size."


class PositionedDrive:
    """A drive at the level of blocks, records and filemarks; it knows nothing about backups.

    The device is opened when it is first needed. The drive is asked for the position of the tape
    before anything is written after an error, and before more than `CHECK_BYTES` are written since
    it was last asked. If the tape is not where we left it, nothing more is written.

    Args:
        path: Path of the device, as for `TapeDrive`.
        open_device: Opens the device; None for Linux's `st`.

    Raises:
        NotATapeError: There is no such device, or it is not a tape.

    Attributes:
        path: Path of the device.
        open_count: How often the device was opened; in between, another tape may have been loaded.
        remembered: What the user of this object wants to remember about the tape. It is set to
            None when another tape may have been loaded.
        poll_seconds: Seconds between two checks of `wait_ready`.
        load_seconds: The longest time, in seconds, from inserting a cartridge until the drive
            reports it.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, open_device: OpenDevice | None = None
    ) -> None:
        self.path = checked_path("path", path)
        self.poll_seconds, self.load_seconds = POLL_SECONDS, LOAD_SECONDS
        if open_device is not None and not callable(open_device):
            raise UsageError(f"open_device must be a function or None, not {open_device!r}")
        if open_device is None:
            check_path(self.path)
        self._open_device = open_device or StDevice
        self._device: TapeDevice | None = None
        self._read_only = self._protected = False
        # None until the drive was asked.
        self._block_size: int | None = None
        # The block where the tape must stand, or `_MOVED` or `_LOST`; None until the drive was
        # asked.
        self._position: int | None = None
        # The position that the drive reported last, the bytes written or read since then, and
        # whether there was no error since then.
        self._confirmed: int | None = None
        self._unchecked = 0
        self._position_is_checked = False
        # True if something was written, and no filemark after it.
        self._writing = False
        # True if the last command wrote a filemark.
        self._at_end = False
        # True if the driver does not count files when it goes to the end of data.
        self._loses_count = False
        # True if the driver may have counted files that were not passed.
        self._miscounts = False
        self.open_count = 0
        self.remembered: object | None = None

    # The drive and its cartridge

    def status(self) -> TapeStatus:
        """The state of the drive, without waiting; this also works without a cartridge.

        Raises:
            TapeError: The device cannot be opened, or does not answer.
        """
        with self._errors("cannot get its status"):
            status = self._opened().status()
        if Flag.ONLINE not in status.flags:
            # The driver notices a new cartridge only when the device is opened.
            self.release()
        return tape_status(status, is_counted=not self._miscounts)

    def wait_ready(
        self,
        timeout: float | None = None,
        *,
        on_wait: Callable[[float], object] | None = None,
        check: Callable[[], object] | None = None,
    ) -> None:
        """Wait until a cartridge is loaded and ready.

        Args:
            timeout: Seconds to wait at most; None for no limit. The first load of a blank LTO-9
                cartridge can take two hours.
            on_wait: Called about once a second with the seconds waited so far; it may raise to end
                the wait.
            check: Called several times a second; it may raise, too.

        Raises:
            NoMediumError: The drive was not ready in time.
            TapeError: The device cannot be opened.
        """
        function("on_wait", on_wait)
        began = time.monotonic()
        while not self.status().online:
            waited = time.monotonic() - began
            if timeout is not None and waited >= timeout:
                raise NoMediumError(f"{self.path} is not ready after {waited:.0f} s")
            if on_wait is not None:
                on_wait(waited)
            _sleep(self.poll_seconds, check)

    def load(self) -> None:
        """Load the cartridge in the drive again, after `eject`; it then stands at its beginning."""
        self._command(Command.LOAD, "load the cartridge")
        self.release()
        self._ready()

    def eject(self) -> None:
        """Rewind and unload the cartridge."""
        self._command(Command.EJECT, "eject the cartridge")
        self.release()

    def erase(self) -> None:
        """Erase everything from here to the end of the tape; this takes hours on many drives."""
        self._check_writable()
        self._check_position()
        self._command(Command.ERASE, "erase")

    def set_block_size(self, size: int) -> None:
        """Set fixed mode, with blocks of this many bytes; 0 sets variable mode, the usual one.

        The drive keeps this setting. In fixed mode, the record size must be a multiple of the block
        size.
        """
        number("the block size", size, most=_MOST)
        self._command(Command.SET_BLOCK_SIZE, f"set the block size to {size}", size)
        self._block_size = self.status().block_size

    @property
    def block_size(self) -> int:
        """Size of all blocks in bytes; 0 in variable mode."""
        self._ready()
        return self._block_size or 0

    # Where it stands

    def tell(self) -> int:
        """Ask the drive for its position: the number of the next block, from the tape's beginning.

        A filemark counts as a block, too.

        Raises:
            PositionLostError: The drive does not report it, as after a reset. Rewind it.
            TapeError: The drive failed.
        """
        doing, is_first = "cannot get its position", self._position is None
        device = self._ready()
        if is_first and self.is_lost:
            raise self._no_position(doing)
        with self._errors(doing):
            try:
                found, _ = _position(device)
            except OSError as e:
                self._position_after_error(device)
                if self.is_lost and e.errno == errno.EIO:
                    raise self._no_position(doing) from e
                raise
        if self._position in (found, _MOVED):
            self._confirm(found)
        return found

    @property
    def is_lost(self) -> bool:
        """True after an error that left the position of the tape unknown."""
        return self._position == _LOST

    def _stands_as_counted(self) -> bool:
        """True if the drive reports that the tape stands where we left it.

        Only then does the driver know the right number of the tape file. It does not notice when
        others move the tape, whether the device is open or was closed.

        Raises:
            PositionLostError: The drive was reset, or has another tape.
        """
        expected = self._position
        if expected in (None, _LOST):
            return False
        return self.tell() == expected or expected == _MOVED

    def seek(self, block: int) -> None:
        """Go to a block, by the number that `tell` gave. The driver then loses count of files."""
        number("the block", block, most=_MOST)
        self._command(Command.SEEK, f"seek block {block}", block)

    def rewind(self) -> None:
        """Go to the beginning of the tape. After this, a drive that was reset can be used again."""
        self._command(Command.REWIND, "rewind")

    def go_to_file(self, file: int) -> None:
        """Go to the beginning of a tape file, by its number from 0.

        Raises:
            TapeError: The tape has no such file, or the drive failed.
        """
        number("file", file)
        was_at_end = self._at_end
        status = self.status() if file and self._stands_as_counted() else None
        if status is None or status.file is None:
            self.rewind()
            if file:
                self.forward_files(file)
        elif file > status.file:
            self.forward_files(file - status.file)
        # Directly after a filemark was written, a read would fail: wind, even to the same place.
        elif file < status.file or status.block != 0 or was_at_end:
            self.backward_files(status.file - file)

    def forward_files(self, count: int = 1) -> None:
        """Go past the `count`-th filemark from here: to the beginning of a later tape file.

        Raises:
            TapeError: There are fewer filemarks; the tape then stands at the end of data.
        """
        number("the count of files", count, most=_MOST)
        self._command(Command.FORWARD_FILES, f"go forward {count} tape files", count)

    def backward_files(self, count: int = 1) -> None:
        """Go to the beginning of the tape file `count` before this one; 0 for this one.

        Raises:
            TapeError: There are fewer tape files; the tape then stands at its beginning.
        """
        number("the count of files", count, most=_MOST)
        file = self.status().file
        if file == count:
            self.rewind()
            return
        self._command(Command.BACKWARD_FILES, f"go back {count} tape files", count + 1)
        # The tape now stands before the filemark that ends the previous file.
        self.forward_files(1)

    def backward_records(self, count: int = 1) -> None:
        """Go back over `count` records, within the tape file."""
        number("the count of records", count, most=_MOST)
        self._command(Command.BACKWARD_RECORDS, f"go back {count} records", count)

    def before_filemark(self) -> None:
        """Go back over the nearest filemark, to the end of the tape file before it."""
        self._command(Command.BACKWARD_FILES, "go back over a filemark")

    def end_of_data(self) -> None:
        """Go to the end of everything that was written, where the next backup begins.

        Raises:
            PositionLostError: The drive was reset, or has another tape. Rewind it.
            TapeError: The drive failed.
        """
        if self._at_end:
            self._at_end = False  # so that the tape is wound the next time, after an error here
            self._check_position()
            self._at_end = True
            return
        if not (self._loses_count and self.status().file is not None):
            self._command(Command.END_OF_DATA, "go to the end of data")
            self._loses_count = self.status().file is None
            if self._loses_count:
                self.rewind()
        if self._loses_count:
            self._pass_all_files()
        end = self._position
        # Again, which does not move the tape: somebody may have moved it before we asked where it
        # stood.
        if self._loses_count:
            self._pass_all_files()
        else:
            self._command(Command.END_OF_DATA, "go to the end of data")
        if self._position != end:
            self._lose()
            raise PositionLostError(f"{self.path} was moved from the end of data")
        file = self.status().file
        # The driver ignores a reset here, and then counts the largest possible number of files.
        if file is not None and self._position is not None and file > self._position:
            self._lose()
            raise PositionLostError(f"{self.path} was reset, or has another tape")

    def _pass_all_files(self) -> None:
        """Go to the end of data so that the driver counts the tape files.

        With its option fast-eod, the driver's own command for this does not count them.
        """
        try:
            self._command(Command.FORWARD_FILES, "go to the end of data", _MOST_FILES)
        except PositionLostError:
            raise
        except TapeError:
            if not self.status().at_end_of_data:
                raise

    def begin_file(self) -> None:
        """Make sure that a new tape file can begin here; write a missing filemark first.

        If a drive lost its power while it wrote, the previous tape file has no filemark yet.

        Raises:
            PositionLostError: The tape is not where it was left; nothing was written.
            TapeError: The drive failed.
        """
        self._check_writable()
        self._check_position()
        if self._position and self.status().block != 0 and not self._is_after_filemark():
            self.write_filemark()

    def _is_after_filemark(self) -> bool:
        """Whether a filemark is just before; goes back over a record or filemark, and forward."""
        where = self._position
        try:
            self.backward_records(1)
        except TapeError:
            self.forward_files(1)
            found = True
        else:
            self._command(Command.FORWARD_RECORDS, "go forward a record")
            found = False
        if self._position != where:
            self._lose()
            raise PositionLostError(f"{self.path} was moved from where it stood")
        return found

    # Reading and writing

    def write_filemark(self) -> None:
        """End a tape file, and wait until everything before it is on the tape.

        Raises:
            PositionLostError: The tape is not where it was left, and nothing more was written; or
                it was moved just before the filemark, which then is elsewhere.
            TapeError: Something before the filemark may not be on the tape.
        """
        self._check_writable()
        self._check_position()
        assert self._position is not None
        after = self._position + 1
        self._command(Command.WRITE_FILEMARKS, "write a filemark")
        if self._position not in (after, _LOST):
            raise self._moved(after, self._position, "the filemark", 1)

    def write_record(self, record: memoryview) -> int:
        """Write one record.

        Args:
            record: The bytes of one block; in fixed mode a multiple of the block size.

        Returns:
            How many bytes are on tape; in fixed mode, fewer than all at the end of the tape.

        Raises:
            EndOfTapeError: Nothing of the record was written. In the early-warning zone, every
                second call fails like this, and succeeds when it is repeated. After that zone,
                every call fails.
            PositionLostError: The tape is not where it was left. This record was not written. The
                records that were written since the drive was last asked, up to `CHECK_BYTES` or
                one larger record, may have gone elsewhere.
            TapeError: Nothing more should be written.
        """
        self._check_writable()
        too_much = self._unchecked and self._unchecked + len(record) > CHECK_BYTES
        if (too_much or not self._position_is_checked) and self._check_position():
            raise EndOfTapeError(f"{self.path}: the tape will soon be full")
        doing = f"cannot write a record of {len(record)} bytes"
        began, device = not self._writing, self._ready()
        self._writing, self._at_end = True, False
        with self._errors(doing):
            try:
                count = device.write(record)
            except OSError as e:
                if e.errno in _TOO_LARGE:
                    if began:  # otherwise closing would write a filemark, and make an empty file
                        self._stop_writing()
                    raise TapeError(f"{self.path}: {doing}", e, hint=_SMALLER) from e
                if e.errno != errno.ENOSPC:
                    self._check_after_write_error(device, len(record), e)
                raise
        assert self._position is not None
        self._position += count // self._block_size if self._block_size else 1
        self._unchecked += count
        return count

    def _check_after_write_error(self, device: TapeDevice, size: int, error: OSError) -> None:
        """Make sure that the tape was not moved, after a record could not be written.

        Raises:
            PositionLostError: The tape was moved, or its position is not known.
        """
        expected, (found, _) = self._position, _found(device)
        assert expected is not None
        blocks = size // self._block_size if self._block_size else 1
        # The driver may report only now that the record before could not be written.
        if not isinstance(found, int) or not expected - 1 <= found <= expected + blocks:
            raise self._moved(expected, found) from error
        if not found:  # the drive may have been reset, or have another tape
            self._stop_writing()
            self._lose()

    def read_record(self, buffer: memoryview) -> int:
        """Read one record; return its bytes, or 0 at the end of data or after passing a filemark.

        Raises:
            OSError: The driver's error; ask for the position after it.
        """
        device = self._ready()
        self._position_is_checked = self._at_end = False
        try:
            count = device.readinto(buffer)
        except OSError as e:
            if e.errno == errno.EIO:
                self._lose()  # the drive may have another tape
            raise
        self._count_read(count)
        return count

    def expected_block(self) -> int | None:
        """The block at which the tape must stand, by our own count, without asking the drive.

        Returns:
            None if it is not known: after an error, after a filemark was read, and in fixed mode
            after any record was read.

        Raises:
            TapeError: The device was closed, and cannot be opened again.
        """
        self._ready()
        return None if self._position in (_MOVED, _LOST) else self._position

    def forget_position(self) -> None:
        """Make the position unknown, so that nothing is written before the tape was wound."""
        self._position, self._position_is_checked = _LOST, False

    @property
    def check_is_due(self) -> bool:
        """True if `CHECK_BYTES` were read since the drive was last asked for its position.

        Never in fixed mode: the driver would drop the rest of a block that was read in part, and go
        back over a filemark that it has not yet reported.
        """
        return self._unchecked >= CHECK_BYTES and not self._block_size

    def _count_read(self, size: int) -> None:
        """Count a record that was read."""
        if self._position is None or self._position in (_MOVED, _LOST):
            return
        # In fixed mode the record may be several blocks, the last one read in part. And if nothing
        # was read, this may be a filemark, which was passed, or the end of data, which was not.
        self._position = self._position + 1 if size and not self._block_size else _MOVED
        self._unchecked += size

    # Opening and closing

    def release(self) -> None:
        """Close the device until it is needed again, so that other programs can use the drive.

        The tape stays where it is. If anything was written since the last filemark, a filemark is
        written first. May be called more than once.

        Raises:
            TapeError: Something that was written may not be on the tape.
        """
        try:
            if self._writing:
                self._check_position()
        finally:
            device, self._device = self._device, None
            was_lost = self.is_lost
            self._position_is_checked = self._writing = self._at_end = self._read_only = False
            self._position = self._block_size = None
            self.remembered = None
            if device is not None:
                with self._errors("cannot close it"):
                    try:
                        device.close()
                    except OSError as e:
                        # Newer drivers report the reset of a drive again here.
                        if not was_lost or e.errno != errno.EIO:
                            raise

    def _opened(self) -> TapeDevice:
        if self._device is None:
            self._device, self._read_only = open_tape(
                self._open_device, self.path, read_only=self._read_only
            )
            self.open_count += 1
        return self._device

    def _ready(self) -> TapeDevice:
        """The device, with a cartridge; after this, `_position` is a block, `_MOVED` or `_LOST`."""
        device = self._opened()
        if self._block_size is None:
            status = self.status()
            if not status.online:
                raise NoMediumError(f"{self.path} has no cartridge that is ready")
            self._protected = status.write_protected
            self._block_size = status.block_size
        if self._position is None:
            try:
                self._confirm(device.position())
            except OSError as e:
                if e.errno != errno.EIO:
                    raise translated(e, f"{self.path}: cannot get its position") from e
                self._lose()  # after a reset, newer drivers report no position before a rewind
        return device

    def _ready_to_wind(self) -> TapeDevice:
        """The device, even after a reset: some drivers then report no status before a rewind."""
        try:
            return self._ready()
        except TapeError as e:
            if e.errno != errno.EIO or self._device is None:
                raise
            return self._device

    def _command(self, command: Command, doing: str, count: int = 1) -> None:
        """Do a command, then ask the drive for the position and trust it."""
        if self._writing and command is not Command.WRITE_FILEMARKS:
            self._check_position()
        with self._errors(f"cannot {doing}"):
            if command in (Command.LOAD, Command.EJECT):
                device = self._opened()
            elif command in _FINDS_PLACE:
                device = self._ready_to_wind()
            else:
                device = self._ready()
            try:
                self._at_end = False
                device.command(command, count)
                self._writing = False
                self._at_end = command is Command.WRITE_FILEMARKS
                self._miscounts = self._miscounts and command not in _FORGETS_COUNT
                if command is not Command.EJECT:
                    self._ask_position(device, command)
            except OSError as e:
                before = self._position
                found = self._position_after_error(device)
                self._check_count(device, command, found)
                if e.errno == errno.EIO:
                    if found is None:
                        raise self._no_position(f"cannot {doing}") from e
                    if command in _GOES_ON and before is not None and found < before:
                        raise self._moved(before, found) from e
                raise
            except KeyboardInterrupt:
                self._position_after_error(device)
                raise

    def _ask_position(self, device: TapeDevice, command: Command) -> None:
        try:
            self._confirm(device.position())
        except OSError as e:
            if command is not Command.WRITE_FILEMARKS:
                raise
            # Everything before the filemark is on the tape; only its position is not known.
            log.warning("%s: wrote a filemark, but cannot tell the position: %s", self.path, e)
            self._lose()

    def _confirm(self, position: int) -> None:
        """Record the position that the drive reported."""
        self._position = self._confirmed = position
        self._unchecked = 0
        self._position_is_checked = True

    def _lose(self) -> None:
        """Record that the position, and even which tape this is, are unknown."""
        self._position = _LOST
        self._position_is_checked = self._at_end = False
        self.remembered = None

    def _position_after_error(self, device: TapeDevice) -> int | None:
        """Ask where a failed command left the tape; None if the drive does not report it.

        Position 0 is not trusted, unless the tape is blank. The drive may have another tape, or was
        reset, and the driver reports that only once.
        """
        if self._position is None:
            return 0
        found, _ = _found(device)
        with suppress(OSError):
            if isinstance(found, int) and (found or Flag.END_OF_DATA in device.status().flags):
                self._position = found
                return found
        self._lose()
        return found if isinstance(found, int) else None

    def _check_count(self, device: TapeDevice, command: Command, found: int | None) -> None:
        """Record that the driver may have the wrong number of the tape file after an error.

        If a drive does not report how many filemarks it did not pass, the driver counts them all.
        Drives report it at the end of data; at the beginning of the tape, the driver knows the
        number.
        """
        if command not in _PASSES_FILES or found == 0:
            return
        with suppress(OSError):
            if Flag.END_OF_DATA in device.status().flags:
                return
        self._miscounts = True

    def _check_position(self) -> bool:
        """Ask the drive, to make sure that the tape is where it was left.

        Returns:
            True if the drive also warned of the end of the tape.

        Raises:
            PositionLostError: The tape is elsewhere, or the drive does not report its position.
        """
        device, expected = self._ready(), self._position
        assert expected is not None
        found, warned = _found(device)
        if isinstance(found, int) and expected == _MOVED:
            expected = found
        if found != expected:
            raise self._moved(expected, found)
        self._confirm(expected)
        return warned

    def _no_position(self, doing: str) -> PositionLostError:
        return PositionLostError(f"{self.path}: {doing}: the drive did not say where it stands")

    def _moved(
        self, expected: int, found: int | str, what: str = "", blocks: int = 0
    ) -> PositionLostError:
        """Stop writing, and make the error that says what is known and what may be lost.

        Args:
            expected: Block at which the tape should stand.
            found: Block at which it stands, or why the drive does not report it.
            what: What was written since the drive was last asked; "" for records, or nothing.
            blocks: How many blocks `what` has.
        """
        if not what and self._writing and self._unchecked and self._confirmed is not None:
            blocks = max(expected - self._confirmed, 1)
            what = f"what was written from block {self._confirmed} on ({self._unchecked} bytes)"
        self._stop_writing()
        self._lose()
        place = f"at block {expected}" if expected >= 0 else "elsewhere"
        text = f"{self.path} should stand {place}"
        text += f", but stands at block {found}" if isinstance(found, int) else f": {found}"
        if not what:
            return PositionLostError(text)
        begin = max(found - blocks, 0) if isinstance(found, int) else 0
        return PositionLostError(
            f"{text}; {what} may have gone elsewhere. The tape then ends there, and "
            f"what was on it from block {begin} on may be lost"
        )

    def _stop_writing(self) -> None:
        """Make the driver forget that it was writing, without moving the tape.

        Otherwise it would write a filemark before it closes or rewinds, wherever the tape is now,
        and overwrite what is there.
        """
        if self._writing and self._device is not None:
            self._writing = False
            for _ in range(2):  # the first call may only report an earlier error
                with suppress(OSError):
                    self._device.command(Command.FORWARD_RECORDS, 0)

    def _check_writable(self) -> None:
        self._ready()
        if self._protected:
            raise WriteProtectedError(f"{self.path}: the cartridge is write-protected")

    def _errors(self, doing: str) -> _Errors:
        return _Errors(self, doing)


class _Errors:
    """Translates the driver's errors.

    This is not a generator for `contextmanager`: since Python 3.12, an error that such a generator
    translates is in a cycle with contextlib's frame, and would keep the memory of the record that
    did not fit until Python looks for cycles.
    """

    __slots__ = ("_doing", "_drive")

    def __init__(self, drive: PositionedDrive, doing: str) -> None:
        self._drive, self._doing = drive, doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            self._drive._position_is_checked = False  # noqa: SLF001
            raise translated(error, f"{self._drive.path}: {self._doing}") from error


def _sleep(seconds: float, check: Callable[[], object] | None) -> None:
    """Sleep, and call `check` meanwhile."""
    until = time.monotonic() + seconds
    while True:
        if check is not None:
            check()
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, CHECK_SECONDS))


def _position(device: TapeDevice) -> tuple[int, bool]:
    """The position of a tape, and whether the drive warned of the tape's end first."""
    try:
        return device.position(), False
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        # This is the early warning for a record that another program wrote; it is on the tape.
        return device.position(), True


def _found(device: TapeDevice) -> tuple[int | str, bool]:
    """The position, as in `_position`, or the reason why the drive does not report it."""
    try:
        return _position(device)
    except OSError as e:
        return e.strerror or str(e), False
