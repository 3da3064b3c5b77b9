"""Arms by seeds: runs a comparison and reports what its curves support."""
