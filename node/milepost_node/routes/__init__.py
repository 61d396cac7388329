"""HTTP routes: they parse a request, ask the node, and write down its answer."""
