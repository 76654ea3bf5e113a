"""Where workers run: processes of this machine, Ray, Slurm, several hosts."""
