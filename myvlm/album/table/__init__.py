"""An album as a Parquet table: read, looked at and spoken of in three stages, here or on a Ray cluster."""
