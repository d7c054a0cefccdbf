"""Rules on text: clean, filter, mask, keep evaluation sets out."""
