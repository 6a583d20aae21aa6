"""Plans as jobs of a real Slurm."""
