"""Fuzzing: for each target one module with ``check(data)``, which asserts what must hold whatever the bytes are, and
``check_long(data)``, which stretches them to a great length and asserts that no time is lost on it.

The modules need nothing but the package; ``run.py`` is the program that feeds them with Atheris.
"""
