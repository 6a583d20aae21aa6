"""From a plan's sources to the token tables that ranks train on.

Sources are files on this machine (``sources``, ``readers``), whose records are samples in one of
seven formats (``records``, ``conversations``, ``samples``). Each answer is found where inference
has it (``chat_template``, ``answers``), tokenized (``tokenization``), counted, drawn and packed
(``preparation``), and kept by content (``cache``, ``tables``). The model's weights and the training
itself live elsewhere; here is only what they start from (``inputs``).
"""
