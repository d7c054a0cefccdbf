"""Room 5: byte-level BPE, special tokens, the chat template."""
