"""The live view of a monitored answer."""
