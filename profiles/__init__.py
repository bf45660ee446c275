"""Typed settings: hardware profiles, arms, and the embedded demo."""
