"""Starting points from trained models: weights, or statistics of them (Wu, Li and Liang 2022, section 4)."""
