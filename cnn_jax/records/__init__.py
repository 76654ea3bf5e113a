"""Results of trials: typed records in a folder of plain files."""
