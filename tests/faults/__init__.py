"""Faults on real Ray and real engines, under load: what became of every call."""
