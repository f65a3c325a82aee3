"""The tables of inspect and of dry runs."""
