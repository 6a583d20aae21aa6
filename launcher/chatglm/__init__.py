"""The conversion of ChatGLM checkpoints and adapters to transformers' GLM, and back.

The models' own code is read as text and never run. After it a ChatGLM model is trained like any
other; which models need it is decided in ``base_model``.
"""
