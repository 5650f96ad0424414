"""What a disk and a backup are: values, without I/O and threads."""
