"""ChatGLM checkpoints as transformers' GLM, and back; none of their own code is run."""
