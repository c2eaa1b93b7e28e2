"""How the model is computed, beside what it computes: attention by backend, losses and samples in chunks, Triton."""
