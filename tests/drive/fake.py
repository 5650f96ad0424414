"""The simulated drive under its earlier name."""

from __future__ import annotations

from tapestream.testing.drive import Cartridge, FakeDevice, FakeDrive, Operation, Resets

__all__ = ["Cartridge", "FakeDevice", "FakeDrive", "Operation", "Resets"]
