"""Mutated input of every kind: the answer is a result or one line, quickly and in little memory."""
