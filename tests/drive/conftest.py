"""The fixture `station`, for all tests here."""

from .stations import station

__all__ = ["station"]
