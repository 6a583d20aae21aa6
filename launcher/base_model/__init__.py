"""The model that a plan trains, as files here: found in a folder, on the hub or in a package.

A ChatGLM checkpoint is converted by ``chatglm`` on the way, and one in MXFP4 is unpacked. How the
model is built from the files and prepared for training lives in ``training``.
"""
