"""``plan --measure``: what is asked of the launcher, and the measurement that its answer makes.

The measuring itself lives in launcher/measurement. What a measurement is, and where it is kept, is
in hardware; what follows from it for a step is in speed.
"""
