"""How other people's training loops are recorded; each module is imported only on use."""
