"""The `milepost` command.  Only this package prints, reads the terminal or sets an exit code."""
