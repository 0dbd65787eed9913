"""``task=compare``: methods trained on the same seeds, told apart at equal steps and at equal cost."""
