"""Trait definition files: find, read and lint them."""
