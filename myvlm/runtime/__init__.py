"""Process-wide state: locks between threads, default dtypes, notebooks and Ray clusters."""
