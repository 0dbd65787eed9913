"""Run user code and leave no trace: what is kept and put back."""
