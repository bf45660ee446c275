"""The subcommands of ``harvest``. Each module's ``add`` imports nothing heavy; its ``execute`` does."""
