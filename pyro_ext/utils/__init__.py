"""The ground floor: checks of arguments, states of random generators, files and tables. Nothing here knows Pyro."""
