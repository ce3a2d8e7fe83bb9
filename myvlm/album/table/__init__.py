"""An album as a Parquet table, made in three stages (read, recognise, caption), here or on a Ray cluster."""
