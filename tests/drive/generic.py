"""Another program that winds the tape through the drive's SCSI generic device, /dev/sgN."""

from __future__ import annotations

import ctypes
import fcntl
import os

_SG_IO = 0x2285


class _Request(ctypes.Structure):
    """`struct sg_io_hdr` of <scsi/sg.h>."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


def path_of(tape: str) -> str:
    """The SCSI generic device of a tape drive."""
    [name] = os.listdir(f"/sys/class/scsi_tape/{os.path.basename(tape)}/device/scsi_generic")
    return f"/dev/{name}"


def open_generic(tape: str) -> int:
    return os.open(path_of(tape), os.O_RDWR | os.O_NONBLOCK)


def rewind(generic: int) -> None:
    command = ctypes.create_string_buffer(b"\x01" + bytes(5), 6)
    sense = ctypes.create_string_buffer(32)
    request = _Request(
        interface_id=ord("S"),
        dxfer_direction=-1,
        cmd_len=6,
        mx_sb_len=len(sense),
        cmdp=ctypes.addressof(command),
        sbp=ctypes.addressof(sense),
        timeout=20_000,
    )
    fcntl.ioctl(generic, _SG_IO, request)
    assert (request.status, request.host_status) == (0, 0), sense.raw
