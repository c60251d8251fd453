"""Scores with uncertainty, paired comparison, the gate and the report."""
