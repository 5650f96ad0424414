"""What to do next, in words of the command line: the library's hints name its own functions."""

from __future__ import annotations

# What the library says, and what it means here. tests/cli/test_hints.py finds each of them in the
# library.
WORDS = {
    "Pass cafile= with the engine's": "Pass --cafile with the engine's",
    "or pass proxy_url": "or pass --proxy-url-file",
    "Pass secure=False if that is what you want": "Pass --insecure if that is what you want",
    "or pass a smaller buffer_memory": "or end other programs",
    "with context='zero' or fallback='full'": "without --incremental, or pass --or-full",
    "with context='zero'": "without --incremental",
    "Pass vm= and disk=": "Pass --vm and --disk",
    "Give it in the BackupInfo, or use another template": (
        "Pass it (--vm, --disk), or the path of a file instead of a folder"
    ),
    "which the template needs": "which the name of a file in a folder has",
    "with restore_chain": "with 'tapestream restore'",
    "Archive.restore_points lists all of them": "'tapestream find --all' lists all of them",
    "start it again, with a new Cancel": "start it again",
    "Label each tape with TapeDrive.write_label before its first backup": (
        "Label each tape with 'tapestream tape label' before its first backup"
    ),
    "TapeDrive.find finds backups without a catalog": (
        "'tapestream tape scan' lists its backups without a catalog"
    ),
    "TapeDrive.find finds this backup without a catalog": (
        "'tapestream tape scan' lists this backup without a catalog"
    ),
    "Load a cartridge; TapeDrive.wait_ready() waits until the drive has taken it": (
        "Load a cartridge, and try again"
    ),
    "Pass on_volume_full=, which loads the next tape; the backup continues there": (
        "Run this in a terminal: it asks for the next tape, and the backup continues there"
    ),
    "Pass on_next_volume=, which loads the tapes that follow": (
        "Run this in a terminal: it asks for the tapes that follow"
    ),
    "with TapeDrive.set_block_size(0) or 'mt setblk 0'": "with 'mt setblk 0'",
    "TapeDrive.write_label(label, overwrite=True) gives it a new label": (
        "'tapestream tape label --overwrite' gives it a new label"
    ),
    "TapeDrive.scan()": "'tapestream tape scan'",
    "Let Catalog.scan read the tape on which it begins": (
        "Load the tape on which it begins, and run 'tapestream tape scan --catalog'"
    ),
    "Catalog.scan makes a new": "'tapestream tape scan --catalog' makes a new",
    "Catalog.scan(drive) remembers it": "'tapestream tape scan --catalog' remembers it",
    "let Catalog.scan read the tape": "run 'tapestream tape scan --catalog' with the tape",
    "Pass the label exactly as Catalog.tapes() lists it": (
        "Write the label exactly as 'tapestream tape catalog' lists it"
    ),
    "without write_label, call Catalog.forget(": (
        "without 'tapestream tape label', run 'tapestream tape forget' ("
    ),
    "Pass file=, the number that scan() or the catalog shows": (
        "Pass --file, the number that 'tapestream tape scan' shows"
    ),
    "at is no point in time": "--at is no point in time",
    "at has no time of day": "--at has no time of day",
    # With an engine.
    "list_vms lists the VMs": "'tapestream vm list' lists the VMs",
    "Choose one of the disks, or pass a folder": "Choose one of them (--disk), or pass a folder",
    "Choose another name, or remove that VM first": "Pass another --name, or remove that VM first",
    "Pass storage_domain": "Pass --storage-domain",
    "Pass the OVF as `ovf`; or restore the disks only, with new_disk and upload_transfer": (
        "Pass --ovf; or restore the disks only, with 'tapestream restore'"
    ),
    "Pass an earlier time as `at`": "Pass an earlier time (--at)",
    "Name the disks to restore, to restore the VM without this one": (
        "Pass --disk for each of the others, to restore the VM without this one"
    ),
    "Pass a folder, tars, a TapeDrive or an Archive. A pipe has one disk, and can be read once: "
    "restore it with new_disk and upload_transfer": (
        "Pass a folder, a tape drive or tars. A pipe has one disk: 'tapestream restore' restores it"
    ),
    "See read_settings for what is needed": "'tapestream vm list --help' says what is needed",
    "See read_settings": "'tapestream vm list --help' says what is needed",
    "Pass another directory as `state`": "Pass another folder (--state)",
    "Pass the catalog of the tapes, or an archive with the backups before": (
        "Pass --catalog, or --since with the folder that has the backups before"
    ),
    "; EngineTimeouts has the time limits": "",
}


def in_our_words(text: str) -> str:
    """Replace the names of the library's functions by those of commands."""
    for theirs, ours in WORDS.items():
        text = text.replace(theirs, ours)
    return text
