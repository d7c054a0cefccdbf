"""Room 7: the decoder."""
