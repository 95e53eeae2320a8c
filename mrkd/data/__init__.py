"""Images and data sets: bytes to pixels, regions of interest, layouts of folders, leak checks."""
