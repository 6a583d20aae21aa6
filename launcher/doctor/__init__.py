"""The check-up of ``launch --doctor``: is this machine, with what is installed, fit to train?

One function per check, from a reading of the machine to a finding; what loads the training stack
runs in processes of its own. How a plan fits the machine is not here but in launcher/lifecycle.
"""
