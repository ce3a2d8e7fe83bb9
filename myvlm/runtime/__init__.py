"""State of the process that calls must not be disturbed by: threads, number types, other processes."""
