"""This machine's files, pipes and file objects."""
