"""The schema of ``plan.yaml`` and the words it is written in: methods, strategies, phases, parts,
optimizers, sections of data, training and prediction, and the file itself. What a plan costs,
and how it is chosen, lives in the packages above."""
