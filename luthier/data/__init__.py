"""Documents. In: sources of raw records. Out: Parquet shards with a manifest. Next rooms: tasks, tokenizer, pack."""
