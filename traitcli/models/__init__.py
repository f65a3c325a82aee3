"""Models: loading, prompting, and reading their residual stream."""
