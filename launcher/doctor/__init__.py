"""``launch --doctor``: is this machine, with what is installed on it, fit to train?"""
