"""Answers for many clients at once, each scored and steered in its own way."""
