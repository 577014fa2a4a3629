"""Video motion magnification: the paper's own task."""
