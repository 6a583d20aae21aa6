"""What was measured on this machine: rates of its devices, and runs that have finished on it.

Both are kept in the user's data folder, which planner/hardware/measured/data_folder.py names.
"""
