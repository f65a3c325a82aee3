"""Gather what inspect and report show, from files alone."""
