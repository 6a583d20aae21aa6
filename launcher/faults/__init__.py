"""What goes wrong while ranks run: where each rank is, which failure came first, and its words.

The ranks record their stages and failures, and the launching process reads them. What is done
about a failure, a restart or a leaner layout, lives in ``lifecycle`` and ``nodes``.
"""
