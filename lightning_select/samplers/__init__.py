"""Samplers that draw the next rows by what the model just said about them."""
