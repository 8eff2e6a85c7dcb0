"""The data room: which pictures there are, how a file becomes RGB, and in what order batches of them come."""
