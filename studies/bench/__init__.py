"""How fast: switches in training, `sites`, `cost` and the data generator, each as a ratio within one run."""
