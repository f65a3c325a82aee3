"""Trait vectors: how they are computed, how good they are, how they are kept."""
