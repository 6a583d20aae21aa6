"""A run's adapter merged into 16-bit weights: ``launch --merge RUN_DIR``.

The base model's files are read and written matrix by matrix, and the merged model is compared with
the base and its adapter. Loading models is in launcher/training.
"""
