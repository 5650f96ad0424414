"""What a backend is, and what it may be able to do besides."""
