"""From what a model gives to distributions: one head per file, all called alike."""
