"""Room 6: documents and conversations to rows of tokens."""
