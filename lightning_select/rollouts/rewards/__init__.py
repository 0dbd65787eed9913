"""Ready-made rewards: any callable ``(prompts, completions, batch) -> one float per completion`` will do instead."""
