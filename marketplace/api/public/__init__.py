"""What anybody may see: the market, its nodes, its epochs, settled receipts; and how the coordinator is."""
