"""Measures a personalized model: the paper's protocol, and the evaluation kits of others."""
