"""How the demo checkpoints are made: questions, tokenizer, training."""
