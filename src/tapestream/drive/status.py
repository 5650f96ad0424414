"""TapeStatus: the state of a drive, as the driver reports it without waiting."""

from __future__ import annotations

from dataclasses import dataclass

from .._shown import short_repr
from .device import DeviceStatus, Flag


@dataclass(frozen=True, repr=False)
class TapeStatus:
    """The state of a drive, as it reports it.

    Attributes:
        online: A cartridge is loaded and ready.
        write_protected: The cartridge cannot be written.
        file: Number of the tape file at which the tape stands, from 0; None when the driver has
            lost count, as after a seek.
        block: Number of the block in that file; None when the driver has lost count.
        block_size: Size of all blocks in bytes; 0 in variable mode.
        density: Density code of the cartridge, as `mt status` shows it.
        at_beginning: The tape stands at its beginning.
        at_filemark: The tape stands directly after a filemark.
        at_end_of_data: There is nothing after this place.
        at_end_of_tape: The tape stands in the early-warning zone at its end, or after it.
        is_empty: There is no cartridge in the drive. A drive that is still loading a cartridge is
            neither `online` nor `is_empty`.
    """

    online: bool
    write_protected: bool
    file: int | None
    block: int | None
    block_size: int
    density: int
    at_beginning: bool
    at_filemark: bool
    at_end_of_data: bool
    at_end_of_tape: bool
    is_empty: bool

    def __repr__(self) -> str:
        if self.is_empty:
            return short_repr(self, "no cartridge")
        if not self.online:
            return short_repr(self, "not ready")
        count = "the driver has lost count" if self.file is None else f"file {self.file}"
        where = f"{count}, block {self.block}" if self.block is not None else count
        states = {
            "beginning": self.at_beginning,
            "end of data": self.at_end_of_data,
            "end of tape": self.at_end_of_tape,
            "write-protected": self.write_protected,
        }
        return short_repr(
            self, ", ".join([where, *(name for name, is_so in states.items() if is_so)])
        )


def tape_status(found: DeviceStatus, *, is_counted: bool) -> TapeStatus:
    """Make the status from what the driver reports.

    Args:
        found: What the driver reports.
        is_counted: False if the driver may have counted tape files that were not passed.
    """
    return TapeStatus(
        online=Flag.ONLINE in found.flags,
        write_protected=Flag.WRITE_PROTECTED in found.flags,
        file=found.file if found.file >= 0 and is_counted else None,
        block=found.block if found.block >= 0 else None,
        block_size=found.block_size,
        density=found.density,
        at_beginning=Flag.BEGINNING in found.flags,
        at_filemark=Flag.FILEMARK in found.flags,
        at_end_of_data=Flag.END_OF_DATA in found.flags,
        at_end_of_tape=Flag.END_OF_TAPE in found.flags,
        is_empty=Flag.NO_MEDIUM in found.flags,
    )
