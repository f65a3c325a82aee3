"""The decode-and-capture loop: sampling, reading hidden states in the same pass, detokenizing."""
