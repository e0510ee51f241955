"""The command ``pyro-ext``.

Each command is a module with two functions: ``add_parser(commands)`` gives its parser to
``commands.add_subcommand(name, parser, help=...)``, and ``run(namespace) -> int`` does the work with the options of
that command alone and returns the exit code. The module is imported when its command is called, not before.
"""
