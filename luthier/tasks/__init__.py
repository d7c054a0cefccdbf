"""Conversations to learn from. In: raw records. Out: messages by role, split for training and validation. Next rooms: tokenizer, pack."""
