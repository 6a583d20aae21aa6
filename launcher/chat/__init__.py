"""A conversation with the model that a run has trained: ``launch --chat RUN``.

Loading a run's model to let it answer lives here, for the quiz too. Building models for training
does not (training/).
"""
