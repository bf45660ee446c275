"""Names that are allowed, and that nobody expects."""

ODD_NAMES = [
    *(
        "a[1]",
        "s*",
        "q?",
        "a#b",
        "a%20b",
        "two words",
        "it's",
        'say "x"',
        "ünï 漢字",
        "-dash",
        "--json",
        "~absent",
    ),
    *("a::b", "a:b", "$HOME", "{date}", "a\\b", "line\nbreak", "[red]x", "\x1b[31mred", "x.parquet", "n" * 200),
]
"""Names of directories in which shells, fsspec, Polars, datasets, rich or argparse may see something else."""

ODD_DIRECTORIES = [
    *("a[1]", "s*", "q?#%20{date}", 'it\'s "two" words', "line\nbreak ünï 漢字", "--json", "a::b$HOME~"),
    "/".join(["long" * 37] * 4),
]
"""Fewer of them, for tests that take long: each has several odd characters, or is 600 characters long."""
