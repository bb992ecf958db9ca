"""From an input to a store: partitions, embeddings in Parquet files, and filling the store."""
