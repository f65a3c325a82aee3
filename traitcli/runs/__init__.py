"""A run on disk: its manifest, its records and the log of its commands."""
