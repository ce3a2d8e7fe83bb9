"""Learn many concepts from one recipe file: one after the other in this process, or in parallel on Ray."""
