"""Reading. In: sources named in a recipe. Out: units of work, records, counts of what could not be read. Next: rules."""
