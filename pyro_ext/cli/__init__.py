"""The command ``pyro-ext``.

Each command is a module with one function, ``run(words) -> int``, which takes the words after the command's name and
returns the exit code. The module is imported when its command is called, not before.
"""
