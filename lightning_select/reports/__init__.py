"""What a training run says about the rows of its dataset: records, audits, pages."""
