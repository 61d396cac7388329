"""Training records: recording a run, retracing it, and reading the weights' movement.

Nothing here opens a connection, unpickles, or runs code that came with a record.  The framework is
imported by `graph`, `capture`, `stepper`, `device` and `recorder` only, TensorFlow by
`keras_training` and `frameworks`; everything else reads records with numpy, or without it.
"""
