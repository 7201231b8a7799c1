"""Fit the learned scorer's weights to labelled calls, and measure the result."""
