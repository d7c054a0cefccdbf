"""Room 8: sampling and decoding."""
