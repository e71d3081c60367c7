"""A page a case that a surgeon opens from disk: slices, surfaces, numbers; and an index over all of them."""
