"""From a plan's sources to the token tables that ranks train on.

Sources are files on this machine (``sources``, ``readers``). ``records`` recognises a record's
format, one of seven, and parses it; ``conversations`` has the turns of a chat, ``samples`` goes
through a whole source. Each answer is found where inference
has it (``chat_template``, ``answers``), tokenized (``tokenization``), counted, drawn and packed
(``preparation``), and kept by content (``cache``, ``tables``). The model's weights and the training
itself live elsewhere; here is only what they start from (``inputs``).
"""
