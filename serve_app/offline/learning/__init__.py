"""Fits the learned scorer's weights to labelled calls, and says what they are worth."""
