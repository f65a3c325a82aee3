"""Add a vector to the residual stream, and measure what that does."""
