"""Image classification: removal on a network that others designed and trained."""
