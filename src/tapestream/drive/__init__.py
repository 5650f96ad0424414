"""One tape drive: its device, the position of the tape, records, and who may use it."""
