"""Many runs of the task scripts: what stands on what, in which order, and where each one runs.

`jobs` says what a run is and how far it is, `betas` and `families` make them (of one config for
several β; of a family's configs with what stands on what), `scheduler` brings them to their end on
an engine (`engines`: this machine, or a Ray cluster), `slurm` hands them all to SLURM. Imports
nothing heavy: each run loads its libraries itself.
"""
