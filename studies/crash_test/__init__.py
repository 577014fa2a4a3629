"""What is left after kills, cuts and full disks: the bits of a run that nothing happened to."""
