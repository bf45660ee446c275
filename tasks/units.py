"""Units of memory, in bytes, and how messages write them."""

MIB = 1 << 20
GIB = 1 << 30


def format_gib(size: int, digits: int = 1) -> str:
    """Return ``size`` bytes in GiB, such as "12.5 GiB"."""
    return f"{size / GIB:.{digits}f} GiB"
