"""The command ``launch``: its options, and what each combination of them starts.

The work itself does not live here but in the packages below, from lifecycle/ to engines/.
"""
