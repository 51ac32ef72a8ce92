"""Launchers: where the runs of a study go, to processes here, to Slurm by submitit, or to a Ray cluster."""
