"""Where the rows of a batch are in what a step did."""
