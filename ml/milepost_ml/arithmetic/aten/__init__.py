"""PyTorch's operators in terms of `backends.Backend`, one module for each kind."""
