"""Private or replaced parts of other libraries, one module per library.

Every name here is one that its library does not promise to keep: the rest of launcher uses the
functions and classes of these modules instead. ``internals`` is the table of those names, which a
test holds against the installed versions. ``torch_text`` needs no PyTorch. The settings and file
formats that libraries document are not here; nothing of launcher is imported here.
"""
