"""The judge that runs on this machine."""
