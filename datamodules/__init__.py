"""Lightning data modules over Lhotse: CutSets in, batches of features out."""
