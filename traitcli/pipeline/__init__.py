"""The pipeline's steps: they know no terminal and no process, and speak in events."""
