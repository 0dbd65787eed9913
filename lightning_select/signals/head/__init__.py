"""The output head: scores that read logits without computing them."""
