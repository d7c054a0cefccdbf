"""Room 4: conversations to learn from."""
