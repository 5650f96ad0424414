"""The tar stream: a backup as a plain tar, written and read strictly forward."""
