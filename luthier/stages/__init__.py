"""Room 15: one file a verb."""
