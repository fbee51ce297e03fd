"""Facts of the published models, as data: their results, and their tensors."""
