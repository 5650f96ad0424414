"""Operations on whole backups: restore and merge chains, compare, verify, discard."""
