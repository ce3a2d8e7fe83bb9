"""Who is seen in a picture, and what is said of it: by transformers in this process, or by a vLLM server."""
