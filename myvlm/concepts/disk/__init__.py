"""Concepts on disk: what a folder says, written whole or not at all, and folders of such folders."""
