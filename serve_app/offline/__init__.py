"""What an operator runs by hand; nothing that serves calls imports it."""
