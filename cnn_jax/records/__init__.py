"""What was done: typed records in a folder of plain files."""
