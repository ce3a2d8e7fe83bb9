"""Teach a frozen vision-language model the things in your life."""
