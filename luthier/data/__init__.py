"""Room 3: raw sources in, clean document shards out."""
