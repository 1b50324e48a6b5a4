"""From a file to tensors, and to nothing else."""
