"""The command line: the thinnest layer over the public names of tapestream."""
