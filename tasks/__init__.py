"""The work itself: plain functions and records, importable without Prefect, a GPU or a network."""
