"""Score tokens while a model writes, or in text that exists, and keep the records."""
