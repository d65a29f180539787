"""Where the bot touches the outside: the Hub, GitHub, subprocesses, environments."""
