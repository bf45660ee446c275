"""The subcommands of ``harvest``. Each module's ``add`` is light; its ``execute`` imports what it needs."""
