"""Push vectors to the Hugging Face hub and pull them from it."""
