"""Writing a model's halves for where this library, or PyTorch, is not."""
