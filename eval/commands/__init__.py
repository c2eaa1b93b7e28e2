"""The subcommands of `metro-t0-eval`: each module registers its parser and holds its body."""
