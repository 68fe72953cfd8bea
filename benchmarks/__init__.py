"""What sessions cost: ours beside its peers, and both beside an application without sessions."""
