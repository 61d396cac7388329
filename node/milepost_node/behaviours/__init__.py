"""How a node that is told to break the rules answers, for experiments and demonstrations."""
