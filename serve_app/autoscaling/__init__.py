"""How many replicas a tier needs: pure decisions, without Ray and without a clock."""
