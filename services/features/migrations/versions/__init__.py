"""Schema changes of the features service's database, in order."""
