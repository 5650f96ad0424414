"""One tape drive with a cartridge: records, filemarks, where it stands, whose it is."""
