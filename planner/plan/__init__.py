"""The schema of ``plan.yaml``, and the words it is written in. It has methods, strategies, phases,
parts and optimizers, the sections of data, training and prediction, and the file itself; what a
plan costs and how it is chosen lives in the packages above."""
