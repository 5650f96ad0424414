"""TarStreamSink and TarStreamSource: the tar stream in a file, a pipe or on tapes."""
