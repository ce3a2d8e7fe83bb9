"""Many concepts learned by one file of recipes: one after the other here, or side by side on Ray."""
