"""The work of a run as plain functions and records, importable without Prefect, a GPU or a network."""
